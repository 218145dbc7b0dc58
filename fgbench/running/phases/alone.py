"""The alone phase: time the base and every method, each in fresh processes of its own."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import ClassVar

from fgbench.measurement.interleave import Arm
from fgbench.plan import Config
from fgbench.running.arms import (
    ArmKey,
    Problem,
    Rounds,
    Samples,
    Spent,
    base_arm,
    method_step,
    step_arm,
    timed_rounds,
    with_blocks,
)
from fgbench.running.group_run import GroupRun
from fgbench.running.matched import Matched
from fgbench.running.messages import Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Row, Tables
from fgbench.running.phases.time import store_ratios
from fgbench.running.reporting import failures_reported
from fgbench.store.schema import BASE, Role


@dataclass(frozen=True, kw_only=True)
class AloneRequest(OfGroup):
    """What one process is asked.

    Attributes:
        alone: the method to time, or `base`.
        process: the number of the round of processes that it belongs to; a round has one for each arm.
        seconds: about how long to time.
    """

    alone: str
    process: int
    seconds: float


def _own_samples(row: Row) -> bool:
    return row["role"] == Role.ALONE


class Alone(Phase):
    """Measures R of methods that share a process with nothing else, to show what interleaving changes."""

    name = "alone"
    request = AloneRequest
    reports = (Rounds, Samples, Spent)
    unit = "process"
    tables: ClassVar[Tables] = {"samples": _own_samples}

    def asked(self, config: Config) -> bool:
        """With `--isolated`."""
        return config.time and config.isolated

    def after(self, config: Config) -> tuple[str, ...]:
        """After the interleaved timing that it is compared with."""
        return ("time",)

    def seconds(self, config: Config) -> float:
        """The timing budget once more, and the start of many processes."""
        processes = config.processes * (1 + len(config.methods))
        return config.max_measure_seconds + processes * STARTUP_SECONDS

    def compiles_afresh(self, asked: AloneRequest) -> bool:
        """In the first round of processes, like the interleaved timing that it is compared with."""
        return asked.process == 0 and asked.compiles

    def run(self, group: GroupRun) -> None:
        """Ask a process for each arm and round, in random order, so that no arm is always the first."""
        config = group.plan.config
        seconds = config.max_measure_seconds / config.processes / (1 + len(group.methods))
        for process in range(config.processes):
            if group.finished(self.name, process):
                continue
            text = f"timing alone, process {process + 1} of {config.processes}"
            with group.jobs(self.name, group.methods, process=process) as jobs:
                arms = [BASE, *jobs]
                random.Random(process).shuffle(arms)
                for arm in arms:
                    group.begin(f"{text}, {arm}", seconds + STARTUP_SECONDS)
                    for event in group.work(self, jobs, alone=arm, process=process, seconds=seconds):
                        if isinstance(event, Samples):
                            group.store(
                                "samples", *({"process": process, **asdict(s)} for s in event.samples)
                            )
        store_ratios(group)

    def measure(self, matched: Matched, asked: AloneRequest, report: Report) -> None:
        """Time one method, or the base."""
        time_alone(matched.problem(), asked.alone, asked.process, asked.seconds, report)


def time_alone(problem: Problem, spec: str, process: int, seconds: float, report: Report) -> None:
    """Time one method, or the base, with nothing else in the process; reports samples."""
    clock, key = problem.clock, ArmKey(Role.ALONE, spec)
    with failures_reported(report, spec):
        if spec == BASE:
            arms = [Arm(key, base_arm(problem).step)]
        else:
            arms = [step_arm(key, problem, method_step(problem, spec, process))]
        arms = with_blocks(arms, problem, clock, seconds)
        for samples in timed_rounds(arms, clock, seconds, random.Random(process), report):
            report(Samples.of(samples))


phase = Alone()
