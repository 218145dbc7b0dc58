"""Find how small a difference fgbench can detect on this machine, by comparisons with a known true ratio.

Identical steps are compared with each other (A/A), and a step with another that does a known share of more
work. Each comparison is made just as a run makes its own: the arms are interleaved in balanced random order,
in several fresh processes, and the interval is a t-interval over the medians of the processes.
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

UNITS = 20  # pieces of equal work in a step; one more piece is a difference of 5 %
KNOWN = (UNITS + 1) / UNITS
ARMS = {"a": UNITS, "b": UNITS, "c": UNITS, "d": UNITS, "e": UNITS + 1, "f": UNITS}
PAIRS = (("b", "a"), ("d", "c"), ("e", "f"))  # disjoint: no arm is in two comparisons


@dataclass(frozen=True)
class KnownComparison:
    """One comparison of two steps whose ratio is known.

    Attributes:
        set: the number of the set of processes that it was made in.
        kind: `aa` for identical steps, `known` for steps with a known difference.
        truth: the true ratio.
        ratio, low, high: the ratio that was found, and its interval over processes.
        within_low, within_high: the interval over rounds, which ignores the spread between processes.
        processes, rounds: how many were measured.
        seconds: how long a step takes.
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
        """Whether its interval contains the true ratio."""
        return self.low <= self.truth <= self.high

    @property
    def half_width(self) -> float:
        """Half the width of its interval, as a share of the ratio."""
        return (self.high - self.low) / 2 / self.ratio


@dataclass(frozen=True)
class Shares:
    """Shares of a measurement's wall time: timed steps, untimed steps before each block, and fgbench."""

    timed: float
    lead_in: float
    harness: float


def compare_known(
    sets: int, processes: int, seconds: float, device: str, threads: int, spent: list[Shares]
) -> Iterator[list[KnownComparison]]:
    """Make the comparisons, one set of fresh processes after the other, and append to `spent`."""
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


def _rounds(events: Iterator[Message], spent: list[Shares]) -> list[dict[str, float]]:
    rounds = []
    for event in events:
        if isinstance(event, RoundTimed):
            rounds.append(event.seconds)
        if isinstance(event, arms.Spent):
            shares = (part / event.wall for part in (event.timed, event.lead_in, event.harness))
            spent.append(Shares(*shares))
    assert len(rounds) >= MINIMUM_ROUNDS
    return rounds


def _comparison(
    number: int, pair: tuple[str, str], by_process: Sequence[Sequence[float]], seconds: float
) -> KnownComparison:
    over = mean_interval([float(np.median(logs)) for logs in by_process]).exponentiated()
    pooled = [log for logs in by_process for log in logs]
    within = median_interval(pooled).exponentiated()
    known = ARMS[pair[0]] != ARMS[pair[1]]
    return KnownComparison(
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
    """What a number of comparisons of one kind show about the machine.

    Attributes:
        count: how many comparisons there are.
        coverage: the share of intervals over processes that contain the truth, with its 95 % interval.
        coverage_within: the same share for the intervals over rounds.
        half_width: the median half-width of the intervals over processes.
        widest: the half-width that nine of ten comparisons stay below.
        floor: the error of the ratio that 19 of 20 comparisons stay below.
        found: the share of comparisons whose interval excludes 1.
        smallest: the smallest difference that 80 % of such comparisons would find.
    """

    count: int
    coverage: Estimate
    coverage_within: float
    half_width: float
    widest: float
    floor: float
    found: float
    smallest: float


def findings(comparisons: Sequence[KnownComparison]) -> Findings:
    """Sum up comparisons of one kind."""
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
    """All comparisons, and how their processes spent their time."""

    comparisons: Sequence[KnownComparison]
    spent: Sequence[Shares]

    def of_kind(self, kind: str) -> Findings:
        """The findings from the comparisons of one kind, `aa` or `known`."""
        return findings([c for c in self.comparisons if c.kind == kind])

    @property
    def harness(self) -> float:
        """The share of the wall time after start-up and warm-up that is neither timed nor lead-in."""
        return float(np.median([s.harness for s in self.spent]))

    def store(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write `noise.csv`, with a row for each comparison, and `noise.json`, with the findings and facts.

        Raises:
            UsageError: the folder cannot be written.
        """
        found = {kind: asdict(self.of_kind(kind)) for kind in ("aa", "known")}
        whole = {**facts, "harness_share": self.harness, "findings": found}
        store_experiment(folder, "noise", [asdict(c) for c in self.comparisons], whole)
