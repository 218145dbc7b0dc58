"""The load phase: each method alone on a GPU, for its device time, clocks and energy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import ClassVar

import torch
from torch import Tensor

from fgbench import methods
from fgbench.measurement.clock import CudaClock
from fgbench.measurement.gauge import gauge_for
from fgbench.measurement.interleave import Arm
from fgbench.measurement.load import WINDOW_SECONDS, under_load
from fgbench.plan import Config
from fgbench.running.arms import LEARNING_RATE, Problem, with_blocks
from fgbench.running.group_run import GroupRun
from fgbench.running.matched import Matched
from fgbench.running.messages import Message, Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Tables, every_row
from fgbench.running.phases.time import store_ratios
from fgbench.running.reporting import failures_reported

LOAD_SHARE = 0.5  # of the timing budget, on top of it, at most


@dataclass(frozen=True, kw_only=True)
class LoadRequest(OfGroup):
    """What the process is asked.

    Attributes:
        seconds: of each method's window.
    """

    seconds: float


@dataclass(frozen=True)
class Loaded(Message):
    """What a step of one method costs the GPU, as a row of load.csv has it; `Load` says what fields mean."""

    method: str
    steps: int
    seconds: float
    busy_seconds: float | None = None
    sm_clock_mhz: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None
    throttle: str | None = None
    joules: float | None = None


class Load(Phase):
    """What a step of each method costs a GPU beside time."""

    name = "load"
    request = LoadRequest
    reports = (Loaded,)
    tables: ClassVar[Tables] = {"load": every_row}

    def asked(self, config: Config) -> bool:
        """On a GPU."""
        found = config.device == "auto" and torch.cuda.is_available()
        return config.time and (found or config.device.startswith("cuda"))

    def after(self, config: Config) -> tuple[str, ...]:
        """After the ratios that its energy goes into."""
        return ("time", "alone")

    def seconds(self, config: Config) -> float:
        """A window of each method."""
        return len(config.methods) * _window(config, len(config.methods)) + STARTUP_SECONDS

    def run(self, group: GroupRun) -> None:
        """One process for all; a note where windows are too short for the counter of energy."""
        specs, config = group.methods, group.plan.config
        if group.finished(self.name):
            return
        seconds = _window(config, len(specs))
        if seconds < WINDOW_SECONDS:
            enough = len(specs) * WINDOW_SECONDS / LOAD_SHARE
            group.note(
                f"energy is not read: it takes a window of {WINDOW_SECONDS:g} s a method; "
                f"--max-measure-seconds {enough:g} has room for them."
            )
        group.begin("load of the GPU", len(specs) * seconds + STARTUP_SECONDS)
        with group.jobs(self.name, specs) as jobs:
            for event in group.work(self, jobs, seconds=seconds):
                if isinstance(event, Loaded):
                    group.store("load", asdict(event))
        store_ratios(group)

    def measure(self, matched: Matched, asked: LoadRequest, report: Report) -> None:
        """All methods, one after the other."""
        measure_load(matched.problem(), asked.methods, asked.seconds, report)


def _window(config: Config, methods: int) -> float:
    """Seconds of each of so many methods: what energy needs, or what the budget has."""
    return min(WINDOW_SECONDS, LOAD_SHARE * config.max_measure_seconds / max(methods, 1))


def measure_load(problem: Problem, specs: Sequence[str], seconds: float, report: Report) -> None:
    """Report what a step of each method costs the GPU, in a window of `seconds` for each."""
    clock = CudaClock(problem.device, gauge_for(problem.device))
    for spec in specs:
        with failures_reported(report, spec):
            (arm,) = with_blocks([_arm(problem, spec)], problem, clock, seconds)
            report(Loaded(spec, **asdict(under_load(arm, clock, seconds))))


def _arm(problem: Problem, spec: str) -> Arm[str]:
    model, conditions = copy.deepcopy(problem.model), problem.conditions_of(spec)
    step = methods.prepare(methods.find(spec), model, problem.loss, problem.seed, conditions)
    batches = cycle(problem.batches)

    def run() -> Tensor:
        return step(next(batches), LEARNING_RATE)

    run()  # what compiles, allocates and chooses kernels
    return Arm(spec, run)


phase = Load()
