"""The cost phase: count FLOPs, bytes and operations of each step, which give the least time it can take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import ClassVar

import torch

from fgbench.measurement.cost import COUNTS, Work, all_convolutions, all_products, count, mean_work
from fgbench.measurement.rates import Rates, byte_rate, launch_seconds, product_rate, random_rate
from fgbench.methods import Conditions
from fgbench.plan import Config
from fgbench.running.arms import LEARNING_RATE, Problem, base_step, free_dropped, method_step
from fgbench.running.group_run import GroupRun
from fgbench.running.matched import Matched
from fgbench.running.messages import Message, Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Tables, every_row
from fgbench.running.reporting import blamed, failures_reported, report_failure
from fgbench.store.schema import BASE, Role

BELOW = 0.97  # a step timed below this share of its floor shows that the floor is wrong
ATTEMPTS = 10  # how often at most rates are measured, a second each: the machine may be slow at one moment


@dataclass(frozen=True, kw_only=True)
class CostRequest(OfGroup):
    """What the process is asked.

    Attributes:
        timed: seconds of the base's and each method's step, as they were timed.
    """

    timed: dict[str, float]


@dataclass(frozen=True)
class Counted(Message):
    """A row of cost.csv: what a step of a method costs; `Work` and `Rates` explain the fields."""

    method: str
    flops: int
    bytes: int
    operations: int
    product_bytes: int
    other_bytes: int
    random_numbers: int
    flops_per_second: float
    bytes_per_second: float
    random_per_second: float
    launch_seconds: float
    floor_seconds: float


class Cost(Phase):
    """Counts on the eager step; another execution mode may fuse operations, and then moves fewer bytes."""

    name = "cost"
    request = CostRequest
    reports = (Counted,)
    tables: ClassVar[Tables] = {"cost": every_row}

    def asked(self, config: Config) -> bool:
        """Whenever steps are timed."""
        return config.time

    def after(self, config: Config) -> tuple[str, ...]:
        """After timing, whose results its floors are checked against."""
        return ("time", "alone", "load")

    def seconds(self, config: Config) -> float:
        """The start of one process."""
        return STARTUP_SECONDS

    def run(self, group: GroupRun) -> None:
        """Ask one process for all methods; a floor above the measured time is noted, not stored."""
        if group.finished(self.name):
            return
        group.begin("FLOPs and floors", STARTUP_SECONDS)
        ratios = group.rows("ratios")
        stepped = ratios[ratios["role"].isin((Role.BASE, Role.METHOD))]
        timed = dict(zip(stepped["method"], stepped["seconds"].astype(float), strict=True))
        with group.jobs(self.name, group.methods) as jobs:
            for event in group.work(self, jobs, timed=timed):
                if not isinstance(event, Counted):
                    continue
                seconds = timed.get(event.method, math.inf)
                if _is_wrong(event.floor_seconds, seconds):
                    detail = (
                        f"its floor of {event.floor_seconds:.3g} s a step is wrong: a step was timed at "
                        f"{seconds:.3g} s"
                    )
                    group.note(f"no floor: {detail}.", event.method)
                    if event.method in jobs:
                        jobs[event.method]["detail"] = detail
                    continue
                group.store("cost", asdict(event))

    def measure(self, matched: Matched, asked: CostRequest, report: Report) -> None:
        """Count the base and every method."""
        measure_cost(matched.problem(), asked.methods, report, asked.timed)


def measure_cost(
    problem: Problem, specs: Sequence[str], report: Report, timed: Mapping[str, float] | None = None
) -> None:
    """Report what a step of the base and of each method costs, with the machine's rates at its shapes.

    Rates that leave a floor above the time of a step in `timed` are measured again, up to `ATTEMPTS` times.
    """
    problem = replace(problem, conditions_of=_eagerly(problem.conditions_of))
    works: dict[str, Work] = {}
    for spec in (BASE, *specs):
        with failures_reported(report, spec), blamed(report, spec):
            works[spec] = _count(problem, spec)
    free_dropped()  # the last step, of which the memory is needed here
    try:
        rates = _rates(problem, works, timed or {})
        numbers = random_rate(problem.device, _dtype(problem), problem.clock)
        launch = launch_seconds(problem.device, problem.clock)
    except Exception as error:
        for spec in works:
            report_failure(report, spec, error)
        return
    for spec, work in works.items():
        report(
            Counted(
                method=spec,
                **{name: getattr(work, name) for name in COUNTS},
                flops_per_second=rates[spec].flops,
                bytes_per_second=rates[spec].bytes,
                random_per_second=numbers,
                launch_seconds=launch,
                floor_seconds=rates[spec].floor(work),
            )
        )


def _rates(problem: Problem, works: Mapping[str, Work], timed: Mapping[str, float]) -> dict[str, Rates]:
    """The best rates for each work, of as many attempts as it takes until no floor is wrong."""
    products, convolutions = all_products(works.values()), all_convolutions(works.values())
    best = {spec: Rates(0.0, 0.0) for spec in works}
    for _ in range(ATTEMPTS):
        flops = product_rate(products, convolutions, problem.device, _dtype(problem), problem.clock)
        for spec, work in works.items():
            own = byte_rate(work.bytes, problem.device, problem.clock)
            best[spec] = Rates(max(flops, best[spec].flops), max(own, best[spec].bytes))
        if not any(_is_wrong(best[s].floor(work), timed.get(s, math.inf)) for s, work in works.items()):
            break
    return best


def _is_wrong(floor: float, timed: float) -> bool:
    """Whether a step was timed at less than its floor."""
    return timed < BELOW * floor


def _dtype(problem: Problem) -> torch.dtype:
    return next((p.dtype for p in problem.model.parameters()), torch.get_default_dtype())


def _eagerly(conditions_of: Callable[[str], Conditions]) -> Callable[[str], Conditions]:
    return lambda spec: replace(conditions_of(spec), execution="eager")


def _count(problem: Problem, spec: str) -> Work:
    """The work of a step that was called before, so that set-up is not counted; the mean over its cycle."""
    if spec == BASE:
        run = base_step(problem)
        run()
        return count(run)
    step = method_step(problem, spec, process=0)
    works = [count(partial(step, problem.batches[0], LEARNING_RATE)) for _ in range(step.cycle)]
    return mean_work(works)


phase = Cost()
