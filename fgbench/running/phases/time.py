"""The timing phase: time base, every method and an A/A repeat, interleaved, in several fresh processes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, cycle
from statistics import fmean, median
from time import perf_counter
from typing import Any, ClassVar

import torch

from fgbench import methods
from fgbench.errors import UsageError, in_one_line
from fgbench.measurement.clock import Clock, clock_for
from fgbench.measurement.interleave import MINIMUM_ROUNDS, Arm, round_seconds
from fgbench.measurement.slowed import slowed
from fgbench.measurement.statistics import two_stage_size
from fgbench.methods import Batch, Step
from fgbench.methods.steps.oracle import check_step
from fgbench.plan import Config
from fgbench.running.arms import (
    LEARNING_RATE,
    MAXIMUM_ROUNDS,
    ArmKey,
    Problem,
    Rounds,
    Samples,
    Spent,
    base_arm,
    method_step,
    over,
    step_arm,
    timed_rounds,
    with_blocks,
)
from fgbench.running.group_run import GroupRun
from fgbench.running.matched import Matched
from fgbench.running.messages import Failed, FirstCall, Message, Noted, Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Row, Tables, every_row
from fgbench.running.reporting import blamed, checking, failures_reported
from fgbench.specs.options import OR
from fgbench.store.schema import Role
from fgbench.summary.live import LiveRatios
from fgbench.summary.ratios import log_ratio_medians, ratios, rounds_of

PILOT_SHARE = 1 / 2  # of the timing budget, for the processes whose number is fixed beforehand
PARTS_SHARE = 0.1  # of a process's time, for timing the parts of steps
WHOLE = "whole"  # stands among the parts of a step for the whole step


@dataclass(frozen=True, kw_only=True)
class TimeRequest(OfGroup):
    """What one process is asked.

    Attributes:
        process: the number of the process.
        seconds: about how long to time.
        reference: the method that is repeated as A/A.
        slowed: the share by which a repeat of every other method is made slower; 0 for no such repeats.
    """

    process: int
    seconds: float
    reference: str
    slowed: float


@dataclass(frozen=True)
class Part(Message):
    """A part of a method's step, timed by itself; median seconds."""

    method: str
    part: str
    seconds: float


@dataclass(frozen=True)
class Parts(Message):
    """The parts of all methods' steps, in one process."""

    parts: tuple[Part, ...]


def _own_samples(row: Row) -> bool:
    return row["role"] != Role.ALONE


class Time(Phase):
    """Measures R and the ratio to the reference, in rounds in which every arm runs."""

    name = "time"
    request = TimeRequest
    reports = (Rounds, Samples, Parts, Spent)
    unit = "process"
    tables: ClassVar[Tables] = {"samples": _own_samples, "parts": every_row}

    def asked(self, config: Config) -> bool:
        """Unless only training is asked for."""
        return config.time

    def after(self, config: Config) -> tuple[str, ...]:
        """After tuning if that chooses optimisers, as the optimiser is part of a step."""
        return ("modes", "tune") if OR in config.optimizer else ("modes", "budget")

    def seconds(self, config: Config) -> float:
        """The timing budget, and the start of the processes."""
        return config.max_measure_seconds + config.processes * STARTUP_SECONDS

    def compiles_afresh(self, asked: TimeRequest) -> bool:
        """In the first process, whose first calls are reported, if anything is compiled."""
        return asked.process == 0 and asked.compiles

    def run(self, group: GroupRun) -> None:
        """Ask as many processes as the config says, and more if their spread is wide and time is left."""
        config = group.plan.config
        pilot = total = config.processes
        live = LiveRatios(group.plan.reference)
        seconds = config.max_measure_seconds * (PILOT_SHARE if pilot > 1 else 1.0) / pilot
        took: list[float] = []
        process, stopped = 0, "quick" if pilot == 1 else "time"
        try:
            while process < total and self._in_process(group, live, process, total, seconds, took):
                process += 1
                if process == pilot > 1:
                    wanted = _processes_wanted(group, pilot)
                    each = fmean([max(seconds, t) for t in took] or [seconds])
                    affordable = int(config.max_measure_seconds / each + 1e-6)
                    total = max(pilot, min(wanted, affordable))
                    stopped = "precision" if wanted <= total else "time"
        except KeyboardInterrupt:
            stopped = "interrupted"
            raise
        finally:
            store_ratios(group, stopped)

    def _in_process(
        self, group: GroupRun, live: LiveRatios, process: int, total: int, seconds: float, took: list[float]
    ) -> bool:
        """Ask one process, and note what all its rounds took; gives whether any method was timed in it."""
        if group.finished(self.name, process):
            # What it took decides on how many more there is time for, as it did when it was not resumed.
            samples = group.rows("samples")
            own = samples[(samples["process"] == process) & (samples["role"] != Role.ALONE)]
            took.append(round_seconds([*own.itertuples()]))  # type: ignore[list-item]
            rows = group.rows("jobs")
            jobs_of_it = rows[(rows["phase"] == self.name) & (rows["process"] == process)]
            return group.goes_on_after_death or bool((jobs_of_it["status"] == "ok").any())
        text = f"timing, process {process + 1} of {total}"
        group.begin(text, seconds + STARTUP_SECONDS)
        reference, slowed_by = group.plan.reference, group.plan.config.slowed
        asked: dict[str, Any] = {"process": process, "seconds": seconds, "reference": reference}
        asked["slowed"] = slowed_by
        with group.jobs(self.name, group.methods, process=process) as jobs:
            rounds = seen = 0
            spent = 0.0
            for event in group.work(self, jobs, **asked):
                match event:
                    case Rounds():
                        rounds = event.rounds
                    case Samples():
                        group.store("samples", *({"process": process, **vars(s)} for s in event.samples))
                        spent += round_seconds(event.samples)
                        if rounds:
                            seen += 1
                            live.add({s.method: s.seconds for s in event.samples if s.role == Role.METHOD})
                            group.watcher.progress(seen / rounds, f"{text}, round {seen} of {rounds} {live}")
                    case Parts():
                        group.store("parts", *({"process": process, **asdict(p)} for p in event.parts))
            took.append(spent)
        return group.goes_on_after_death or any(job["status"] == "ok" for job in jobs.values())

    def measure(self, matched: Matched, asked: TimeRequest, report: Report) -> None:
        """Time the rounds of one process."""
        time_methods(
            matched.problem(),
            asked.methods,
            asked.reference,
            asked.process,
            asked.seconds,
            report,
            asked.slowed,
        )


def _processes_wanted(group: GroupRun, pilot: int) -> int:
    """How many processes the least precise ratio needs, by Stein's second stage from the pilot's spread."""
    samples = group.rows("samples")
    samples = samples[samples["process"] < pilot]  # a resumed run may have samples of more
    if samples["process"].nunique() < pilot:
        return pilot
    measured = {m: own for (role, m), own in rounds_of(samples).items() if role == Role.METHOD}
    over = measured.pop(group.plan.reference, None)
    if over is None:
        return pilot
    medians = [log_ratio_medians(own, over) for own in measured.values()]
    wanted = [two_stage_size(m, group.plan.config.precision) for m in medians if len(m) > 1]
    return max([pilot, *wanted])


def store_ratios(group: GroupRun, stopped: str | None = None) -> None:
    """Derive the group's rows of ratios.csv from its samples and load.

    Args:
        group: the group.
        stopped: why timing ended; None keeps the stored reason.
    """
    if not group.derives:
        return
    if stopped is None:
        stored = group.rows("ratios")["stopped"]
        stopped = str(stored.iloc[0]) if len(stored) else "time"
    facts = {"reference": group.plan.reference, "stopped": stopped}
    load = group.rows("load")
    joules = dict(zip(load["method"], load["joules"], strict=True))
    found = ratios(group.rows("samples"), group.plan.reference, group.plan.config.processes, joules)
    group.replace("ratios", [{**facts, **ratio.row()} for ratio in found])


# ---- in the worker


def time_methods(
    problem: Problem,
    specs: tuple[str, ...],
    reference: str,
    process: int,
    seconds: float,
    report: Report,
    slowed_by: float = 0.0,
) -> None:
    """Check, warm up, then time rounds for about `seconds`; report samples round by round.

    A method that fails, or whose step is wrong, is reported and left out. With `slowed_by` every method
    but the reference runs once more, slower by that share.

    Raises:
        UsageError: the base fails or its loss is wrong, so that no R can be computed.
    """
    # What is as short as a single part is timed without a gauge, which takes some microseconds to ask.
    clock, bare = problem.clock, clock_for(problem.device)
    try:
        arms = [base_arm(problem)]
    except Exception as error:
        raise UsageError(
            f"the base, by which the time of every step is divided, cannot be timed: {in_one_line(error)}"
        ) from error
    steps: dict[str, Step] = {}
    for spec in specs:
        with failures_reported(report, spec), blamed(report, spec):
            step = _checked_step(problem, spec, process, report)
            own = {Role.METHOD: step}
            if spec == reference:
                own[Role.AA] = method_step(problem, spec, process)
            arms += [step_arm(ArmKey(role, spec), problem, s) for role, s in own.items()]
            steps[spec] = step
    if slowed_by:
        for spec in [s for s in steps if s != reference]:
            step = method_step(problem, spec, process)
            slower = slowed(over(problem.batches, step), slowed_by, bare, problem.device)
            arms.append(Arm(ArmKey(Role.SLOWED, spec), slower, cycle=step.cycle))
    arms = with_blocks(arms, problem, clock, seconds)
    # The process is part of the seed, so that every process runs the arms in other orders.
    rng = random.Random(f"{problem.seed}/{process}")
    for samples in timed_rounds(arms, clock, seconds, rng, report):
        report(Samples.of(samples))
    report(Parts(time_parts(steps, problem, bare, seconds * PARTS_SHARE)))
    for arm in arms:
        diverged = not torch.isfinite(arm.step()).all()  # type: ignore[arg-type]
        if diverged and arm.key.role == Role.METHOD:
            report(Failed(arm.key.method, "diverged", "its loss was not finite when timed"))


def _checked_step(problem: Problem, spec: str, process: int, report: Report) -> Step:
    """A method's step, called once and checked against reverse mode."""
    start = perf_counter()
    step = method_step(problem, spec, process)
    report(FirstCall(spec, perf_counter() - start))
    check_step(
        methods.find(spec),
        problem.model,
        problem.loss,
        problem.batches[0],
        problem.seed,
        problem.conditions_of(spec),
        partial(checking, report, spec),
    )
    if notes := step.notes():
        report(Noted(spec, tuple(notes)))
    return step


def time_parts(steps: Mapping[str, Step], problem: Problem, clock: Clock, seconds: float) -> tuple[Part, ...]:
    """Time the parts of each method's step one by one, and whole steps in the same rounds.

    Gives the median of each part and of the whole. On a GPU the parts may add up to more than the whole, as
    synchronising between them prevents overlap. Where steps differ in kind, each figure is a median over
    means of whole cycles.
    """
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    supply, spent = cycle(problem.batches), 0.0
    for index in count():
        if index >= MINIMUM_ROUNDS and (spent > seconds or index >= MAXIMUM_ROUNDS):
            break
        for name, step in steps.items():
            if index * step.cycle >= 2 * MINIMUM_ROUNDS and spent > seconds:
                continue
            for part, reading in _cycle_of_parts(step, supply, clock, whole_first=index % 2 == 1).items():
                found[name, part].append(reading)
                spent += reading
    return tuple(Part(method, part, median(seconds)) for (method, part), seconds in found.items())


def _cycle_of_parts(
    step: Step, supply: Iterator[Batch], clock: Clock, *, whole_first: bool
) -> dict[str, float]:
    """Mean seconds of each part over one cycle of steps; empty for a step in one piece, as a CUDA graph."""
    took: dict[str, float] = defaultdict(float)
    for _ in range(step.cycle):
        batch = next(supply)
        whole = {WHOLE: partial(step, batch, LEARNING_RATE)}
        parts = step.parts(batch, LEARNING_RATE)
        if len(parts) == 1:
            break
        for part, run in (whole | parts if whole_first else parts | whole).items():
            took[part] += clock.time(run).seconds / step.cycle
    return took


phase = Time()
