"""The target of a group and when each of its runs reached it, from the curves."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fgbench.training.target import against_target, best_held, common_target


def target_of(curves: pd.DataFrame, asked: str, reference: str) -> float | None:
    """The loss to reach in one group; None where `auto` or `backprop-best` finds none.

    Args:
        curves: rows of curves.csv of one group.
        asked: a number, `auto` (the lowest loss that every run reached and held) or `backprop-best`
            (the median over seeds of the lowest that the reference held).
        reference: the method that `backprop-best` looks at.
    """
    if asked == "auto":
        runs = [list(run["validation_loss"]) for _, run in curves.groupby("job", sort=False)]
        return common_target(runs) if runs else None
    if asked == "backprop-best":
        of_reference = curves[curves["method"] == reference]
        return best_held([list(run["validation_loss"]) for _, run in of_reference.groupby("job", sort=False)])
    return float(asked)


def target_rows(curves: pd.DataFrame, target: float) -> list[dict[str, Any]]:
    """A row of targets.csv for each run of one group."""
    rows = []
    for job, run in curves.groupby("job", sort=False):
        outcome = against_target(
            list(run["train_seconds"]), list(run["iteration"]), list(run["validation_loss"]), target
        )
        first = run.iloc[0]
        rows.append(
            {
                "job": job,
                "group": first["group"],
                "method": first["method"],
                "seed": first["seed"],
                "target_loss": target,
                "outcome": "reached" if outcome.reached else "censored",
                "seconds": outcome.seconds,
                "iterations": outcome.iterations,
                "first_hit_seconds": outcome.first_hit_seconds,
                "first_hit_iterations": outcome.first_hit_iterations,
            }
        )
    return rows
