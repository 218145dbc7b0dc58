"""Training runs of several seeds as one curve: their median, their range, and where runs diverged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fgbench.charts.drawing.comparison import Comparison

Values = np.ndarray


@dataclass(frozen=True)
class SeedCurves:
    """A method's validation loss over seeds.

    Attributes:
        x: seconds or iterations, up to where the first run's budget ended.
        median: of the seeds at each x; a diverged run counts as infinite from there on.
        low: the lowest of the seeds.
        high: the highest.
        ends: (x, loss) of the last finite evaluation of each diverged run.
    """

    x: Values
    median: Values
    low: Values
    high: Values
    ends: list[tuple[float, float]]


def seed_curves(comparison: Comparison, method: str, against: str) -> SeedCurves | None:
    """The curves of one method of a single group, on the union of all its seeds' evaluations.

    Args:
        comparison: a single group.
        method: whose curves.
        against: the column of curves.csv that is x.
    """
    curves = comparison.tables["curves"]
    jobs = comparison.tables["jobs"]
    diverged_jobs = set(jobs[jobs["status"] == "diverged"]["job"])
    runs, ends = [], []
    for job, run in curves[curves["method"] == method].groupby("job", sort=False):
        x, y = _xy(run, against)
        finite = np.isfinite(y)
        if not finite.any():
            continue
        diverged = not finite.all() or job in diverged_jobs
        x, y = x[finite], y[finite]
        runs.append((x, y, diverged))
        if diverged:
            ends.append((float(x[-1]), float(y[-1])))
    return _joined(runs, ends) if runs else None


def _joined(runs: list[tuple[Values, Values, bool]], ends: list[tuple[float, float]]) -> SeedCurves:
    budgets = [x[-1] for x, _, diverged in runs if not diverged] or [max(x[-1] for x, _, _ in runs)]
    grid = np.unique(np.concatenate([x for x, _, _ in runs]))
    grid = grid[grid <= min(budgets)]
    losses = np.stack([np.where(grid > x[-1], np.inf, np.interp(grid, x, y)) for x, y, _ in runs])
    return SeedCurves(grid, np.median(losses, axis=0), losses.min(axis=0), losses.max(axis=0), ends)


def _xy(run: pd.DataFrame, against: str) -> tuple[Values, Values]:
    ordered = run.sort_values("iteration")
    return (
        ordered[against].to_numpy(dtype=float, na_value=np.nan),
        ordered["validation_loss"].to_numpy(dtype=float, na_value=np.nan),
    )
