"""The worker's process, `python -m fgbench.running.worker`: reads a request, writes events as JSON lines."""

from __future__ import annotations

import atexit
import gc
import json
import os
import sys
import warnings
from importlib import import_module
from typing import TextIO

from fgbench.ending import end_quickly
from fgbench.running.lifeline import tie_to_runner, watch
from fgbench.running.messages import READY


def main() -> None:
    """Do one task; the last event is `Done`, after `Refused` if the user has to change something."""
    pipe = tie_to_runner()
    atexit.register(end_quickly)
    # Only reports go to the pipe; whatever a user's model prints goes to standard error.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    _import_ahead()
    channel.write(READY)
    channel.flush()
    with os.fdopen(pipe, encoding="utf-8", closefd=False) as lines:
        line = lines.readline()
    if not line.endswith("\n"):
        return  # the runner is gone
    watch(pipe)
    _do(line, channel)


def _import_ahead() -> None:
    """Import what nearly every task needs, which takes seconds; an optimiser needs `torch._dynamo`.

    It all stays. Looking for garbage in it, while it grows and later, would take a third as long again.
    """
    gc.disable()
    for name in ("torch._dynamo", "fgbench.running.phases"):
        import_module(name)
    gc.freeze()
    gc.enable()


def _do(line: str, channel: TextIO) -> None:
    from fgbench.errors import UsageError
    from fgbench.running.messages import Done, Message, Refused, encode, from_json
    from fgbench.running.task import task_at

    def report(event: Message) -> None:
        channel.write(encode(event))
        channel.flush()

    asked = json.loads(line)
    task = task_at(asked["task"])
    try:
        task.work(from_json(task.request, json.dumps(asked["request"])), report)
    except UsageError as error:
        report(Refused(str(error)))
    report(Done())


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(1)  # the runner is gone, nobody wants this result
