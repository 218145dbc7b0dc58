"""`python -m fgbench.worker`: read one request from standard input, do it, report in JSON lines."""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any, TextIO


def main() -> None:
    """Do one phase of one group; ends with the event `done`, or `usage_error` with its line."""
    # Reports go out on the pipe alone: whatever a user's model prints lands on standard error.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    request = json.loads(sys.stdin.read())
    from fgbench.errors import UsageError

    try:
        _do(request, channel)
    except UsageError as error:
        _report(channel, "usage_error", message=str(error))
    _report(channel, "done")


def _do(request: dict[str, Any], channel: TextIO) -> None:
    from functools import partial

    from fgbench.plan import Group
    from fgbench.worker.matched import build_matched
    from fgbench.worker.memory import measure_memory
    from fgbench.worker.timing import BATCHES, Problem, time_methods
    from fgbench.worker.training import train, tune

    report = partial(_report, channel)
    matched = build_matched(Group(**request["group"]), request["data_dir"], request["seed"])
    report("built", **matched.facts())
    specs = request["methods"]
    match request["phase"]:
        case "time":
            batches = matched.batches(BATCHES)
            problem = Problem(matched.model, matched.loss, batches, matched.seed, matched.group.conditions)
            time_methods(problem, specs, request["reference"], request["process"], request["seconds"], report)
        case "memory":
            measure_memory(matched, specs, report)
        case "tune":
            tune(matched, specs, request["seconds"], request["searched"], report)
        case "train":
            train(matched, request["learning_rates"], request["every"], request["seconds"], report)


def _report(channel: TextIO, event: str, **facts: Any) -> None:
    channel.write(json.dumps({"event": event, **facts}) + "\n")
    channel.flush()


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(1)  # the runner is gone, nobody wants this result
