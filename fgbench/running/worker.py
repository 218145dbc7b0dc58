"""The worker's process, `python -m fgbench.running.worker`: one request in, JSON lines out."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

from fgbench.running.lifeline import tie_to_runner, watch


def main() -> None:
    """Do one phase of one group; ends with the event `done`, or `usage_error` with its line."""
    pipe = tie_to_runner()
    # Reports go out on the pipe alone: whatever a user's model prints lands on standard error.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    with os.fdopen(pipe, closefd=False) as lines:
        asked = lines.readline()
    if not asked.endswith("\n"):
        return  # the runner is gone
    watch(pipe)
    request = json.loads(asked)
    from fgbench.errors import UsageError

    try:
        _do(request, channel)
    except UsageError as error:
        _report(channel, "usage_error", message=str(error))
    _report(channel, "done")


def _do(request: dict[str, Any], channel: TextIO) -> None:
    from functools import partial

    from fgbench.plan import Group
    from fgbench.running.checkpoint import Checkpoint
    from fgbench.running.load import measure_load
    from fgbench.running.matched import build_matched
    from fgbench.running.memory import measure_memory
    from fgbench.running.timing import BATCHES, MODES, find_modes, time_alone, time_methods
    from fgbench.running.training import Protocol, train, tune
    from fgbench.training.choice import Goal

    report = partial(_report, channel)
    if request["phase"] == "noise":
        from fgbench.running.noise import measure_noise

        asked = {key: value for key, value in request.items() if key != "phase"}
        measure_noise(**asked, report=report)
        return
    if request["phase"] == "compare":
        from fgbench.running.comparison import do_comparison

        do_comparison(request, report)
        return
    group = Group(**request["group"])
    own = request["executions"], request["optimizers"], request.get("updates")
    matched = build_matched(group, request["data_dir"], request["seed"], *own)
    report("built", **matched.facts())
    specs = request["methods"]
    match request["phase"]:
        case "modes":
            problem = matched.problem(matched.batches(BATCHES))
            modes = MODES[matched.device.type] if request["best"] else (group.execution,)
            # Its number is not called `process`: the first has compiled code at hand like the others.
            seconds, number = request["seconds"], request["number"]
            find_modes(problem, specs, modes, group.optimizers, seconds, report, number)
        case "time":
            problem = matched.problem(matched.batches(BATCHES))
            reference, slowed_by = request["reference"], request["slowed"]
            process, seconds = request["process"], request["seconds"]
            time_methods(problem, specs, reference, process, seconds, report, slowed_by)
        case "alone":
            problem = matched.problem(matched.batches(BATCHES))
            time_alone(problem, request["alone"], request["process"], request["seconds"], report)
        case "load":
            measure_load(matched.problem(matched.batches(BATCHES)), specs, request["seconds"], report)
        case "memory":
            measure_memory(matched, specs, report)
        case "tune":
            goal = None if request["goal"] is None else Goal(**request["goal"])
            tune(matched, specs, Protocol.of(request["protocol"]), goal, report)
        case "train":
            checkpoint = Checkpoint(Path(request["checkpoint"]))
            train(matched, request["learning_rates"], Protocol.of(request["protocol"]), report, checkpoint)


def _report(channel: TextIO, event: str, **facts: Any) -> None:
    channel.write(json.dumps({"event": event, **facts}) + "\n")
    channel.flush()


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(1)  # the runner is gone, nobody wants this result
