"""The modes phase: find each method's fastest execution mode, and its fastest update if it leaves that open.

All phases that follow use them.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from statistics import median
from typing import Any, ClassVar, NamedTuple

from fgbench import methods
from fgbench.errors import in_one_line
from fgbench.measurement.clock import Clock
from fgbench.measurement.interleave import Arm
from fgbench.methods import Conditions
from fgbench.methods.steps.oracle import check_step
from fgbench.plan import BEST, Config
from fgbench.running.arms import Problem, base_arm, method_step, step_arm, timed_rounds, with_blocks
from fgbench.running.group_run import GroupRun
from fgbench.running.matched import Matched
from fgbench.running.messages import Message, Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Tables, every_row
from fgbench.running.reporting import blamed, device_must_answer
from fgbench.specs.options import OR
from fgbench.store.csv_table import records
from fgbench.store.schema import BASE
from fgbench.summary.modes import choices, marked, unusable

MODES = {"cpu": ("eager", "compile"), "cuda": ("eager", "compile", "cudagraph")}
MODES_SHARE = 0.2  # of the timing budget, in addition to it, to find execution modes
UPDATES_SHARE = 0.1  # likewise, to find updates alone
PROCESSES = 3  # at most so many processes time them


@dataclass(frozen=True, kw_only=True)
class ModesRequest(OfGroup):
    """What one process is asked.

    Attributes:
        seconds: about how long to time.
        best: whether to try all execution modes; otherwise only the group's.
        number: the number of the process.
    """

    seconds: float
    best: bool
    number: int


@dataclass(frozen=True)
class Mode(Message):
    """One way to run a method: the seconds of a step, or in `detail` why it cannot be run."""

    method: str
    execution: str
    optimizer: str
    update: str
    seconds: float | None
    detail: str | None = None


class Modes(Phase):
    """Times every way to run each method, interleaved in a few fresh processes, and takes the fastest."""

    name = "modes"
    request = ModesRequest
    reports = (Mode,)
    tables: ClassVar[Tables] = {"modes": every_row}

    def asked(self, config: Config) -> bool:
        """Where the mode or a method's update is left open, unless a memory budget decides on the update."""
        if config.memory_budget is not None:
            return False
        return config.execution == BEST or bool(_leaving_open(config, config.methods))

    def seconds(self, config: Config) -> float:
        """A share of the timing budget, and the start of its processes."""
        return _seconds(config) + _processes(config) * STARTUP_SECONDS

    def run(self, group: GroupRun) -> None:
        """Find and store the fastest ways, and note which updates were found."""
        config, specs = group.plan.config, group.methods
        if config.execution != BEST and not _leaving_open(config, specs):
            return
        if not group.finished(self.name):
            with group.jobs(self.name, specs) as jobs:
                for number in range(_processes(config)):
                    self._in_process(group, jobs, number)
                group.replace("modes", list(records(marked(group.rows("modes")))))
        _choose(group)

    def _in_process(self, group: GroupRun, jobs: Any, number: int) -> None:
        config = group.plan.config
        best, processes = config.execution == BEST, _processes(config)
        seconds = _seconds(config) / processes
        text = "execution modes" if best else "ways to update"
        group.begin(f"{text}, process {number + 1} of {processes}", seconds + STARTUP_SECONDS)
        for event in group.work(self, jobs, seconds=seconds, best=best, number=number):
            if isinstance(event, Mode):
                group.store("modes", {"process": number, **asdict(event)})

    def measure(self, matched: Matched, asked: ModesRequest, report: Report) -> None:
        """Time all ways in one process."""
        modes = MODES[matched.device.type] if asked.best else (matched.group.execution,)
        optimizers = matched.group.optimizers
        find_modes(matched.problem(), asked.methods, modes, optimizers, asked.seconds, report, asked.number)


def _leaving_open(config: Config, specs: Sequence[str]) -> list[str]:
    """The methods that leave open how parameters are updated."""
    conditions = [Conditions(config.execution, optimizer) for optimizer in config.optimizer.split(OR)]
    return [spec for spec in specs if any(methods.find(spec).updates(own) for own in conditions)]


def _processes(config: Config) -> int:
    return min(PROCESSES, config.processes)


def _seconds(config: Config) -> float:
    """Seconds of timing, over all processes."""
    return (MODES_SHARE if config.execution == BEST else UPDATES_SHARE) * config.max_measure_seconds


def _note_unusable(group: GroupRun) -> None:
    """Say which modes were not to be had; only of the base where it has not even that."""
    for_all: set[str] = set()
    for method, mode, why in unusable(group.rows("modes")):
        if method == BASE:
            for_all.add(mode)
        elif mode in for_all or methods.find(method).refuses(mode):
            continue
        group.note(f"did not run with --exec {mode}, which is left out: {why}", method)


def _choose(group: GroupRun) -> None:
    own = group.choices
    if group.plan.config.execution == BEST:
        _note_unusable(group)
    executions, updates = dict(own.executions), {m: dict(found) for m, found in own.updates.items()}
    for choice in choices(group.rows("modes")):
        if group.plan.config.execution == BEST:
            executions[choice.method] = choice.execution
        if choice.update:
            updates.setdefault(choice.method, {})[choice.optimizer] = choice.update
            several = OR in group.plan.config.optimizer  # each has an update of its own
            under = f"with {choice.optimizer} " * several
            group.note(f"{under}{choice.sentence}.", choice.method)
    group.choices = replace(own, executions=executions, updates=updates)


# ---- in the worker


class Way(NamedTuple):
    """A way to run a method, or the base."""

    method: str
    conditions: Conditions

    @property
    def facts(self) -> dict[str, str]:
        """The fields of `Mode` that describe it."""
        own = self.conditions
        return {"execution": own.execution, "optimizer": own.optimizer, "update": own.update}


def find_modes(
    problem: Problem,
    specs: Sequence[str],
    modes: Sequence[str],
    optimizers: Sequence[str],
    seconds: float,
    report: Report,
    process: int = 0,
) -> None:
    """Time all ways to run each method, and the base; report the median of each.

    The ways are the execution modes and, for a method that leaves its update open, the updates under each
    optimiser. A method with only one way is not timed. A way that cannot run is reported with the reason;
    the method itself does not count as failed. Process 0 also checks each step. The ways of one method are
    interleaved, and gone before the next one's, as those of all would fill a GPU's memory.
    """
    ways = list(_ways(problem, specs, modes, optimizers))
    for method in dict.fromkeys(way.method for way in ways):
        own = [way for way in ways if way.method == method]
        with blamed(report, method):
            for told in _timed(problem, own, seconds * len(own) / len(ways), process):
                report(told)


def _timed(problem: Problem, ways: Sequence[Way], seconds: float, process: int) -> Iterator[Mode]:
    """The ways of one method, timed side by side."""
    clock, arms = problem.clock, []
    for way in ways:
        try:
            arms.append(_arm(problem, way, process))
        except Exception as error:
            device_must_answer(error, way.method)
            yield Mode(way.method, **way.facts, seconds=None, detail=in_one_line(error))
    if arms:
        found = _median_seconds(with_blocks(arms, problem, clock, seconds), clock, seconds, process)
        for way, median_seconds in found.items():
            yield Mode(way.method, **way.facts, seconds=median_seconds)


def _ways(
    problem: Problem, specs: Sequence[str], modes: Sequence[str], optimizers: Sequence[str]
) -> Iterator[Way]:
    for spec, mode in product((BASE, *specs), modes):
        own = replace(problem.conditions_of(spec), execution=mode)
        updates = [
            replace(own, optimizer=optimizer, update=update)
            for optimizer in optimizers
            for update in (() if spec == BASE else _updates(spec, replace(own, optimizer=optimizer)))
        ]
        alone = [own] if len(modes) > 1 else []
        yield from (Way(spec, conditions) for conditions in updates or alone)


def _updates(spec: str, conditions: Conditions) -> tuple[str, ...]:
    return methods.find(spec).updates(conditions)


def _arm(problem: Problem, way: Way, process: int) -> Arm[Way]:
    def always(_spec: str) -> Conditions:
        return way.conditions

    trial = replace(problem, conditions_of=always)
    if way.method == BASE:
        return Arm(way, base_arm(trial).step)
    if process == 0:
        method = methods.find(way.method)
        check_step(method, trial.model, trial.loss, trial.batches[0], trial.seed, way.conditions)
    return step_arm(way, trial, method_step(trial, way.method, process))


def _median_seconds(arms: Sequence[Arm[Way]], clock: Clock, seconds: float, process: int) -> dict[Way, float]:
    history: dict[Way, list[float]] = defaultdict(list)
    for samples in timed_rounds(arms, clock, seconds, random.Random(process)):
        for sample in samples:
            if not sample.warm_up:
                history[sample.arm].append(sample.seconds)
    return {arm.key: median(history[arm.key]) for arm in arms}


phase = Modes()
