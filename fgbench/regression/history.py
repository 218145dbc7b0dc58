"""History: ratios over many runs, and the points in time where they changed for good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from fgbench.measurement.statistics import Estimate, difference_interval, mean_interval
from fgbench.regression.entries import entries_of_run, independent
from fgbench.regression.entry import Entry
from fgbench.store.run_folder import RunFolder

FALSE_ALARMS = 0.01  # probability that a test finds a change in a series without one
PERMUTATIONS = 999
LEAST = 3  # the least number of runs on either side of a change


@dataclass(frozen=True)
class Point:
    """One run's ratio.

    Attributes:
        started: when the run started, as ISO 8601 in UTC.
        commit: the commit of the folder that fgbench was called in, or of fgbench; empty if unknown.
        run: the name of the run's folder.
        entry: the ratio, with all that it depends on.
    """

    started: str
    commit: str
    run: str
    entry: Entry


@dataclass(frozen=True)
class ChangePoint:
    """Where a series changed.

    Attributes:
        at: index of the first point after the change.
        change: mean ratio after over mean ratio before, with its 95 % interval over runs.
    """

    at: int
    change: Estimate


@dataclass(frozen=True)
class Series:
    """The ratio of one method of one group on one machine, over time."""

    points: Sequence[Point]
    changes: Sequence[ChangePoint]

    @property
    def label(self) -> str:
        """Its name in tables and charts."""
        return self.points[-1].entry.label

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """The stretches between changes, each as its first point and the point after its last."""
        bounds = [0, *(change.at for change in self.changes), len(self.points)]
        return list(pairwise(bounds))

    def level(self, stretch: tuple[int, int]) -> Estimate:
        """The mean ratio of a stretch, with its interval over runs."""
        return mean_interval(_logs(self.points[slice(*stretch)])).exponentiated()


def histories(runs: Sequence[RunFolder], tolerance: float) -> list[Series]:
    """A series for each ratio, by method, group and machine; torch's version may change within a series.

    Copies of runs, and runs that were merged into another one of these, are left out.

    Args:
        runs: the runs, in any order.
        tolerance: only changes beyond this share are marked, as machines drift.

    Raises:
        ResultsError: a run is damaged.
    """
    found: dict[tuple[Any, ...], list[Point]] = {}
    for run in independent(sorted(runs, key=lambda run: (run.facts()["started"], run.path.name))):
        facts = run.facts()
        environment = facts["environment"]
        commit = environment.get("git") or environment.get("fgbench_git") or ""
        for entry in entries_of_run(run):
            if not entry.fault:
                key = (entry.identity, entry.device, entry.dtype, entry.threads, entry.execution)
                found.setdefault(key, []).append(Point(facts["started"], commit, run.path.name, entry))
    return [_series(points, math.log1p(tolerance)) for _, points in sorted(found.items())]


def _series(points: Sequence[Point], least: float) -> Series:
    logs = _logs(points)
    places = change_points(logs, least)
    bounds = [0, *places, len(logs)]
    changes = [
        ChangePoint(at, _step(logs[before:at], logs[at:after]))
        for before, at, after in zip(bounds, places, bounds[2:], strict=False)
    ]
    return Series(points, changes)


def _logs(points: Sequence[Point]) -> list[float]:
    return [math.log(point.entry.ratio) for point in points]


def _step(before: Sequence[float], after: Sequence[float]) -> Estimate:
    return difference_interval(after, before).exponentiated()


def change_points(values: Sequence[float], least: float = 0.0) -> list[int]:
    """Where the mean of a series steps, by binary segmentation with a permutation test.

    A stretch is cut where the means of its two sides differ most, given their sizes, if shuffled stretches
    seldom differ as much. A stretch of independent values with one distribution, whatever it is, is cut with
    probability `FALSE_ALARMS` at most. Stretches of fewer than 2 × LEAST values are not cut.

    Args:
        values: the series in the order of time.
        least: a difference of means below this does not count.

    Returns:
        Indices of the first value after each step, ascending.
    """
    generator = np.random.default_rng(0)
    found: list[int] = []
    left = [(0, len(values))]
    while left:
        start, end = left.pop()
        stretch = np.asarray(values[start:end], dtype=float)
        if len(stretch) < 2 * LEAST:
            continue
        scores = _scores(stretch[None])[0]
        shuffled = generator.permuted(np.tile(stretch, (PERMUTATIONS, 1)), axis=1)
        as_much = int((_scores(shuffled).max(axis=1) >= scores.max() * (1 - 1e-12)).sum())
        at = start + LEAST + int(scores.argmax())
        step = abs(float(np.mean(values[at:end])) - float(np.mean(values[start:at])))
        if (1 + as_much) / (1 + PERMUTATIONS) <= FALSE_ALARMS and step >= least:
            found.append(at)
            left += [(start, at), (at, end)]
    return sorted(found)


def _scores(series: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """How far the sides' means differ for cuts at LEAST, LEAST + 1, …: [rows, values] → [rows, cuts]."""
    count = series.shape[1]
    before = np.arange(LEAST, count - LEAST + 1)
    sums = series.cumsum(axis=1)
    first, whole = sums[:, before - 1], sums[:, -1:]
    gap = np.abs(first / before - (whole - first) / (count - before))
    return np.asarray(gap * np.sqrt(before * (count - before) / count))
