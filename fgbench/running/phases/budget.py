"""The budget phase: measure the peak memory and the time of every variant of each method.

The fastest variant that fits the memory budget stands for its method in all phases that follow.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import ClassVar

from fgbench import methods
from fgbench.measurement.interleave import Arm
from fgbench.measurement.memory import peak_of_step
from fgbench.plan import Config
from fgbench.running.arms import base_arm, method_step, step_arm, timed_rounds, with_blocks
from fgbench.running.group_run import GroupRun, Jobs, worker_died
from fgbench.running.matched import Matched
from fgbench.running.messages import Message, Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Tables, every_row
from fgbench.running.phases.memory import BATCHES, bytes_of_model, prepared_step
from fgbench.running.reporting import device_must_answer, in_one_line
from fgbench.specs.options import canonical, split_spec
from fgbench.store.csv_table import records
from fgbench.store.jobs import OVER_BUDGET
from fgbench.summary.variants import least_over, marked

SHARE = 0.4  # of the timing budget, in addition to it
TOGETHER = 8  # at most so many variants are timed in the same rounds, as each has a model of its own


@dataclass(frozen=True, kw_only=True)
class BudgetRequest(OfGroup):
    """What the process is asked.

    Attributes:
        seconds: about how long to time.
    """

    seconds: float


@dataclass(frozen=True)
class Variant(Message):
    """A row of variants.csv: a variant of a method; where figures are missing, `detail` says why."""

    method: str
    variant: str
    peak_bytes: int | None = None
    beyond_bytes: int | None = None
    seconds: float | None = None
    r: float | None = None
    detail: str | None = None


class Budget(Phase):
    """Finds the fastest variant of each method that fits a memory budget."""

    name = "budget"
    request = BudgetRequest
    reports = (Variant,)
    tables: ClassVar[Tables] = {"variants": every_row}
    stands_after_death = False

    def asked(self, config: Config) -> bool:
        """Where a memory budget is given."""
        return config.memory_budget is not None

    def seconds(self, config: Config) -> float:
        """A share of the timing budget for the times, and as much for the peaks."""
        return 2 * SHARE * config.max_measure_seconds + STARTUP_SECONDS

    def run(self, group: GroupRun) -> None:
        """Ask one process for all variants of all methods, and choose among them."""
        budget = group.plan.config.memory_budget
        assert budget is not None
        if not group.finished(self.name):
            group.begin("variants under a memory budget", self.seconds(group.plan.config))
            seconds = SHARE * group.plan.config.max_measure_seconds
            with group.jobs(self.name, group.methods) as jobs:
                for event in group.work(self, jobs, seconds=seconds):
                    if isinstance(event, Variant):
                        group.store("variants", asdict(event))
                        group.watcher.progress(0.5, f"variants, {event.variant}")
                found = marked(group.rows("variants"), budget)
                group.replace("variants", list(records(found)))
                _leave_out(group, jobs, budget)
            if worker_died(jobs):
                group.left_out.update(group.methods)  # until a resume: nothing runs without the budget
        rows = group.rows("variants")
        for row in records(rows[rows["chosen"].fillna(value=False).astype(bool)]):
            group.choices = group.choices.with_variant(row["method"], row["variant"])

    def measure(self, matched: Matched, asked: BudgetRequest, report: Report) -> None:
        """Measure the peaks, then the times."""
        measure_variants(matched, asked.methods, asked.seconds, report)


def _leave_out(group: GroupRun, jobs: Jobs, budget: int) -> None:
    """Mark the jobs of methods that do not fit, and say by how much their smallest variant is over budget."""
    for method, text in least_over(group.rows("variants"), budget).items():
        if method in jobs and jobs[method]["status"] == "ok":
            jobs[method] |= {"status": OVER_BUDGET, "detail": text}
            group.left_out.add(method)
            group.note(f"{text}.", method)


# ---- in the worker


def measure_variants(matched: Matched, specs: Sequence[str], seconds: float, report: Report) -> None:
    """Report each variant with its peak and its time; a variant that cannot run, with the reason."""
    size = bytes_of_model(matched.model)
    for spec in specs:
        peaks: dict[str, int] = {}
        for variant in _variants(matched, spec):
            try:
                peaks[variant] = _peak(matched, spec, variant)
            except Exception as error:
                device_must_answer(error, variant)
                report(Variant(spec, variant, detail=in_one_line(error)))
        names = list(peaks)
        times: dict[str, tuple[float, float]] = {}
        for start in range(0, len(names), TOGETHER):
            share = seconds / len(specs) * min(TOGETHER, len(names) - start) / len(names)
            times |= _times(matched, spec, names[start : start + TOGETHER], share, report)
        for variant, (own, r) in times.items():
            report(Variant(spec, variant, peaks[variant], peaks[variant] - size, own, r))


def _variants(matched: Matched, spec: str) -> Iterator[str]:
    found = methods.find(spec).variants(matched.conditions_of(spec), matched.group.batch)
    yield from dict.fromkeys(canonical(split_spec(spec)[0], variant) for variant in found)


def _with(matched: Matched, spec: str, variant: str) -> Matched:
    return replace(matched, choices=matched.choices.with_variant(spec, variant))


def _peak(matched: Matched, spec: str, variant: str) -> int:
    own, batches = _with(matched, spec, variant), matched.batches(BATCHES)
    return peak_of_step(partial(prepared_step, own, spec, batches, []), matched.device).allocated


def _times(
    matched: Matched, spec: str, variants: Sequence[str], seconds: float, report: Report
) -> dict[str, tuple[float, float]]:
    """The median seconds of a step of each variant, and R, the median of step over base in the same round.

    A variant that cannot run beside the others, as where a GPU's memory is full, is reported and left out.
    """
    problem = matched.problem()
    base = base_arm(problem)
    arms: list[Arm[str]] = [Arm("", base.step)]
    for variant in variants:
        own = _with(matched, spec, variant).problem()
        try:
            arms.append(step_arm(variant, own, method_step(own, spec, process=0)))
        except Exception as error:
            device_must_answer(error, variant)
            report(Variant(spec, variant, detail=in_one_line(error)))
    rounds: dict[str, list[float]] = defaultdict(list)
    timed = with_blocks(arms, problem, problem.clock, seconds)
    for samples in timed_rounds(timed, problem.clock, seconds, random.Random(matched.seed)):
        for sample in samples:
            if not sample.warm_up:
                rounds[sample.arm].append(sample.seconds)
    return {
        variant: (
            median(rounds[variant]),
            median(own / base for own, base in zip(rounds[variant], rounds[""], strict=True)),
        )
        for variant in (arm.key for arm in arms[1:])
    }


phase = Budget()
