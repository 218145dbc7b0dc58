"""A scripted worker for tasks on a real Slurm: answers in no time, once it is let.

It imports nothing heavy: many of them are started. It waits as long as the file that FGBENCH_TEST_HOLD
names exists and lists the task's phase.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.scripted import Script


def line_of(happened: dict[str, Any]) -> str:
    facts = {key: value for key, value in happened.items() if key != "event"}
    return json.dumps({"kind": happened["event"], "facts": facts}) + "\n"


def held(phase: str) -> bool:
    hold = Path(os.environ.get("FGBENCH_TEST_HOLD", "/nothing"))
    return hold.exists() and phase in hold.read_text().split()


def main() -> None:
    order = json.loads(sys.stdin.readline())
    phase = order["task"].partition(":")[0].rpartition(".")[2]
    where = {"node": os.environ.get("SLURMD_NODENAME", "here")}
    while held(phase):
        time.sleep(0.1)
    for happened in Script().tell({"phase": phase, **order["request"]}):
        sys.stdout.write(line_of({**happened, **(where if happened["event"] == "Built" else {})}))
    sys.stdout.write('{"kind": "Done", "facts": {}}\n')
    sys.stdout.flush()


if __name__ == "__main__":
    main()
