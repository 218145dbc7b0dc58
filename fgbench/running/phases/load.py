"""The load phase: run each method alone on a GPU, for its device time, clocks and energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch

from fgbench.measurement.clock import CudaClock
from fgbench.measurement.gauge import gauge_for
from fgbench.measurement.load import WINDOW_SECONDS, under_load
from fgbench.plan import Config
from fgbench.running.arms import Problem, method_step, step_arm, with_blocks
from fgbench.running.group_run import GroupRun
from fgbench.running.matched import Matched
from fgbench.running.messages import Message, Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Tables, every_row
from fgbench.running.phases.time import store_ratios
from fgbench.running.reporting import blamed, failures_reported

LOAD_SHARE = 0.5  # at most so much of the timing budget, in addition to it


@dataclass(frozen=True, kw_only=True)
class LoadRequest(OfGroup):
    """What the process is asked.

    Attributes:
        seconds: how long each method is repeated (its window).
    """

    seconds: float


@dataclass(frozen=True)
class Loaded(Message):
    """A row of load.csv: what a step of one method costs the GPU; `Load` explains the fields."""

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
    """Measures what a step of each method costs a GPU besides time."""

    name = "load"
    request = LoadRequest
    reports = (Loaded,)
    tables: ClassVar[Tables] = {"load": every_row}

    def asked(self, config: Config) -> bool:
        """On a GPU."""
        found = config.device == "auto" and torch.cuda.is_available()
        return config.time and (found or config.device.startswith("cuda"))

    def after(self, config: Config) -> tuple[str, ...]:
        """After timing, whose ratios the energy is added to."""
        return ("time", "alone")

    def seconds(self, config: Config) -> float:
        """A window for each method."""
        return len(config.methods) * _window(config, len(config.methods)) + STARTUP_SECONDS

    def run(self, group: GroupRun) -> None:
        """Ask one process for all methods; note it if windows are too short for the counter of energy."""
        specs, config = group.methods, group.plan.config
        if group.finished(self.name):
            return
        seconds = _window(config, len(specs))
        if seconds < WINDOW_SECONDS:
            enough = len(specs) * WINDOW_SECONDS / LOAD_SHARE
            group.note(
                f"energy is not measured: it takes {WINDOW_SECONDS:g} s for each method; "
                f"--max-measure-seconds {enough:g} would leave room for that."
            )
        group.begin("load of the GPU", len(specs) * seconds + STARTUP_SECONDS)
        with group.jobs(self.name, specs) as jobs:
            for event in group.work(self, jobs, seconds=seconds):
                if isinstance(event, Loaded):
                    group.store("load", asdict(event))
        store_ratios(group)

    def measure(self, matched: Matched, asked: LoadRequest, report: Report) -> None:
        """Measure all methods, one after the other."""
        measure_load(matched.problem(), asked.methods, asked.seconds, report)


def _window(config: Config, methods: int) -> float:
    """The seconds of a window: what the energy counter needs, or less where the budget is short."""
    return min(WINDOW_SECONDS, LOAD_SHARE * config.max_measure_seconds / max(methods, 1))


def measure_load(problem: Problem, specs: Sequence[str], seconds: float, report: Report) -> None:
    """Report what a step of each method costs the GPU, in a window of `seconds` for each."""
    clock = CudaClock(problem.device, gauge_for(problem.device))
    for spec in specs:
        with failures_reported(report, spec), blamed(report, spec):
            arm = step_arm(spec, problem, method_step(problem, spec, process=0))
            (arm,) = with_blocks([arm], problem, clock, seconds)
            report(Loaded(spec, **asdict(under_load(arm, clock, seconds))))


phase = Load()
