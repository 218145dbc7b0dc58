"""Noise: what this machine lets fgbench see, by comparisons of which the truth is known.

Identical steps are compared (A/A), and a step with a step that does a known share more of the same
work. Each comparison is made as a run makes its own: arms interleaved in balanced random order, in
several fresh processes, with a t-interval over their medians.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fgbench.experiments.known_work import KnownWork, KnownWorkRequest, RoundTimed
from fgbench.measurement.interleave import MINIMUM_ROUNDS
from fgbench.measurement.statistics import (
    CONFIDENCE,
    Estimate,
    detectable,
    mean_interval,
    median_interval,
    t_quantile,
)
from fgbench.running import arms
from fgbench.running.client import work
from fgbench.running.messages import Message
from fgbench.store.experiment import store_experiment

UNITS = 20  # pieces of equal work in a step; one more is a difference of 5 %
KNOWN = (UNITS + 1) / UNITS
ARMS = {"a": UNITS, "b": UNITS, "c": UNITS, "d": UNITS, "e": UNITS + 1, "f": UNITS}
PAIRS = (("b", "a"), ("d", "c"), ("e", "f"))  # disjoint: no arm is in two comparisons


@dataclass(frozen=True)
class Comparison:
    """One comparison of two steps whose ratio is known.

    Attributes:
        set: number of the set of processes that it was made in.
        kind: `aa` for identical steps, `known` for the difference.
        truth: the ratio that it should find.
        ratio, low, high: what it found, over processes.
        within_low, within_high: the interval by the rounds alone.
        processes, rounds: measured.
        seconds: of a step.
    """

    set: int
    kind: str
    truth: float
    ratio: float
    low: float
    high: float
    within_low: float
    within_high: float
    processes: int
    rounds: int
    seconds: float

    @property
    def covers(self) -> bool:
        """Whether its interval holds the truth."""
        return self.low <= self.truth <= self.high

    @property
    def half_width(self) -> float:
        """Of its interval, as a share of the ratio."""
        return (self.high - self.low) / 2 / self.ratio


@dataclass(frozen=True)
class Spent:
    """Where a measurement's wall time went, in shares: timed, steps that lead in to a block, fgbench."""

    timed: float
    lead_in: float
    harness: float


def compare_known(
    sets: int, processes: int, seconds: float, device: str, threads: int, spent: list[Spent]
) -> Iterator[list[Comparison]]:
    """The comparisons of one set of fresh processes after the other; what they spent goes into `spent`."""
    for number in range(sets):
        logs: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
        step_seconds: list[float] = []
        for process in range(processes):
            request = KnownWorkRequest(ARMS, device, threads, number * processes + process, seconds)
            rounds = _rounds(work(KnownWork(), request), spent)
            step_seconds += [r["a"] for r in rounds]
            for pair in PAIRS:
                logs[pair].append([math.log(r[pair[0]] / r[pair[1]]) for r in rounds])
        step = float(np.median(step_seconds))
        yield [_comparison(number, pair, by_process, step) for pair, by_process in logs.items()]


def _rounds(events: Iterator[Message], spent: list[Spent]) -> list[dict[str, float]]:
    rounds = []
    for event in events:
        if isinstance(event, RoundTimed):
            rounds.append(event.seconds)
        if isinstance(event, arms.Spent):
            shares = (part / event.wall for part in (event.timed, event.lead_in, event.harness))
            spent.append(Spent(*shares))
    assert len(rounds) >= MINIMUM_ROUNDS
    return rounds


def _comparison(
    number: int, pair: tuple[str, str], by_process: Sequence[Sequence[float]], seconds: float
) -> Comparison:
    over = mean_interval([float(np.median(logs)) for logs in by_process]).exponentiated()
    pooled = [log for logs in by_process for log in logs]
    within = median_interval(pooled).exponentiated()
    known = ARMS[pair[0]] != ARMS[pair[1]]
    return Comparison(
        number,
        "known" if known else "aa",
        KNOWN if known else 1.0,
        *(over.value, over.low, over.high, within.low, within.high),
        len(by_process),
        len(pooled),
        seconds,
    )


@dataclass(frozen=True)
class Findings:
    """What a number of comparisons of one kind say of the machine.

    Attributes:
        count: how many.
        coverage: share of intervals over processes that hold the truth, with its 95 % interval.
        coverage_within: the same of the intervals by the rounds alone.
        half_width: the median one.
        widest: a half-width that nine of ten comparisons stay below.
        floor: how far the ratio is off in 19 of 20 comparisons.
        found: share in which the interval leaves out 1.
        smallest: difference that 80 % of such comparisons would find.
    """

    count: int
    coverage: Estimate
    coverage_within: float
    half_width: float
    widest: float
    floor: float
    found: float
    smallest: float


def findings(comparisons: Sequence[Comparison]) -> Findings:
    """Of comparisons of one kind."""
    covered = sum(c.covers for c in comparisons)
    bounds = stats.binomtest(covered, len(comparisons)).proportion_ci(CONFIDENCE)
    widths = [c.half_width for c in comparisons]
    processes = comparisons[0].processes
    quantile = t_quantile(processes - 1)
    errors = [math.log(c.high / c.ratio) / quantile for c in comparisons]
    reach = detectable(float(np.sqrt(np.mean(np.square(errors)))), processes - 1)
    return Findings(
        len(comparisons),
        Estimate(covered / len(comparisons), float(bounds.low), float(bounds.high)),
        float(np.mean([c.within_low <= c.truth <= c.within_high for c in comparisons])),
        float(np.median(widths)),
        float(np.quantile(widths, 0.9)),
        float(np.quantile([abs(c.ratio / c.truth - 1) for c in comparisons], 0.95)),
        float(np.mean([not c.low <= 1 <= c.high for c in comparisons])),
        math.expm1(reach),
    )


@dataclass(frozen=True)
class Experiment:
    """All comparisons, and what their processes spent their time on."""

    comparisons: Sequence[Comparison]
    spent: Sequence[Spent]

    def of_kind(self, kind: str) -> Findings:
        """What the comparisons of one kind, `aa` or `known`, say."""
        return findings([c for c in self.comparisons if c.kind == kind])

    @property
    def harness(self) -> float:
        """Share of the wall time, start-up and warm-up apart, that is neither timed nor lead-in."""
        return float(np.median([s.harness for s in self.spent]))

    def store(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write `noise.csv`, a comparison a row, and `noise.json`, the findings beside the facts.

        Raises:
            UsageError: the folder cannot be written.
        """
        found = {kind: asdict(self.of_kind(kind)) for kind in ("aa", "known")}
        whole = {**facts, "harness_share": self.harness, "findings": found}
        store_experiment(folder, "noise", [asdict(c) for c in self.comparisons], whole)
