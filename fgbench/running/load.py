"""The load phase: each method alone on a GPU, for its device time, clocks and energy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from itertools import cycle

from torch import Tensor

from fgbench import methods
from fgbench.measurement.clock import CudaClock
from fgbench.measurement.gauge import gauge_for
from fgbench.measurement.interleave import Arm
from fgbench.measurement.load import under_load
from fgbench.running.reporting import Report, failures_reported
from fgbench.running.timing import LEARNING_RATE, Problem, with_blocks


def measure_load(problem: Problem, specs: Sequence[str], seconds: float, report: Report) -> None:
    """Report what a step of each method costs the GPU, in a window of `seconds` for each."""
    clock = CudaClock(problem.device, gauge_for(problem.device))
    for spec in specs:
        with failures_reported(report, spec):
            (arm,) = with_blocks([_arm(problem, spec)], problem, clock, seconds)
            report("load", method=spec, **asdict(under_load(arm, clock, seconds)))


def _arm(problem: Problem, spec: str) -> Arm:
    model, conditions = copy.deepcopy(problem.model), problem.conditions_of(spec)
    step = methods.prepare(methods.find(spec), model, problem.loss, problem.seed, conditions)
    batches = cycle(problem.batches)

    def run() -> Tensor:
        return step(next(batches), LEARNING_RATE)

    run()  # what compiles, allocates and chooses kernels
    return Arm(spec, run)
