"""What a method's steps are worth, over the course of the reference's training, from quality.csv."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fgbench.measurement.statistics import NORMAL
from fgbench.measurement.steps_ratio import Mean, Worth, mean_of, steps_ratio
from fgbench.summary.ratios import missing_if_nan

ALL, START = "all", "start"  # layer and weights
FIGURES = ("cosine", "second_moment")


def worth_cells(quality: pd.DataFrame, method: str, reference: str) -> dict[str, Any]:
    """Cosine and second moment of a method, and the steps ratio that they predict.

    Means over the points of the reference's run, the start with them: there all methods are judged at the
    same weights. The reference's own steps are one step.

    Args:
        quality: rows of one group.
        method: whose.
        reference: that steps are over.
    """
    points = at_reference(quality, reference)
    own, over = points[points["method"] == method], points[points["method"] == reference]
    ratio, error = _steps_ratio(own, over)
    reach = NORMAL * error
    return {
        **{name: missing_if_nan(float(own[name].mean())) for name in FIGURES},
        "n_predicted": missing_if_nan(ratio),
        "n_predicted_low": missing_if_nan(max(ratio - reach, 0.0)),
        "n_predicted_high": missing_if_nan(ratio + reach),
    }


def at_reference(quality: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The rows over all parameters, at the start and at the reference's weights."""
    there = quality["weights"].isin([START, reference]) & (quality["layer"] == ALL)
    return quality[there]


def _steps_ratio(own: pd.DataFrame, over: pd.DataFrame) -> tuple[float, float]:
    if own.empty or over.empty:
        return math.nan, math.nan
    if own["method"].iloc[0] == over["method"].iloc[0]:
        return 1.0, 0.0
    found = steps_ratio(_worth(own), _worth(over))
    return found.value, found.error


def _worth(points: pd.DataFrame) -> Worth:
    """The mean over the points."""
    moment, along = (
        mean_of([Mean(*cells) for cells in zip(points[name], points[f"{name}_error"], strict=True)])
        for name in ("second_moment_large", "along_large")
    )
    return Worth(moment, along, bool(points["unbiased"].iloc[0]))
