"""The quality of a method's estimates over the course of the reference's training, from quality.csv."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fgbench.measurement.statistics import NOTHING, Estimate
from fgbench.measurement.steps_ratio import ONE, Mean, Worth, geometric_mean, steps_ratio
from fgbench.summary.ratios import missing_if_nan

ALL, START = "all", "start"  # values of the columns `layer` and `weights`
FIGURES = ("cosine", "second_moment")
AT = ["weights", "iteration"]
OF_STEPS = [  # the columns that a steps ratio is predicted from
    *(*AT, "unbiased", "draws", "second_moment_large", "second_moment_large_error"),
    *("along_large", "along_large_error"),
]


def worth_cells(quality: pd.DataFrame, method: str, reference: str) -> dict[str, Any]:
    """Cosine and second moment of a method, the steps ratio that they predict, and what is not finite.

    The first three are means over the start and the points of the reference's run, where all methods are
    judged at the same weights, and missing where the method has no figure at one of these: a mean over the
    others could not stand beside those of other methods. The share that is not finite is over the points of
    its own run too.

    Args:
        quality: rows of quality.csv of one group.
        method: the method.
        reference: the method that the steps ratio is over.
    """
    points = at_reference(quality, reference)
    own, over = points[points["method"] == method], points[points["method"] == reference]
    whole = len(own) == len(points[AT].drop_duplicates())
    ratio = _steps_ratio(own, over) if whole else NOTHING
    return {
        **{name: missing_if_nan(float(own[name].mean(skipna=False))) if whole else None for name in FIGURES},
        "n_predicted": missing_if_nan(ratio.value),
        "n_predicted_low": missing_if_nan(ratio.low),
        "n_predicted_high": missing_if_nan(ratio.high),
        "non_finite": _non_finite(quality[(quality["method"] == method) & (quality["layer"] == ALL)]),
    }


def _non_finite(own: pd.DataFrame) -> float | None:
    """The share of all derivatives drawn at any weights; each point counts by its draws."""
    known = own["non_finite"].notna()
    shares, draws = own["non_finite"][known], own["draws"][known].astype("float64")
    return missing_if_nan(float((shares * draws).sum() / draws.sum())) if draws.sum() else None


def at_reference(quality: pd.DataFrame, reference: str) -> pd.DataFrame:
    """The rows over all parameters, at the start and at the reference's weights."""
    there = quality["weights"].isin([START, reference]) & (quality["layer"] == ALL)
    return quality[there]


def _steps_ratio(own: pd.DataFrame, over: pd.DataFrame) -> Estimate:
    """The geometric mean of the points' steps ratios."""
    points, others = (
        {tuple(row[name] for name in AT): row for row in rows[OF_STEPS].to_dict("records")}
        for rows in (own, over)
    )
    both = [(row, others[at]) for at, row in points.items() if at in others]
    if not both:
        return NOTHING
    if own["method"].iloc[0] == over["method"].iloc[0]:
        return ONE.estimate()
    return geometric_mean([steps_ratio(_worth(row), _worth(other)) for row, other in both]).estimate()


def _worth(row: Mapping[Any, Any]) -> Worth:
    moment, along = (
        Mean(float(row[name]), float(row[f"{name}_error"])) for name in ("second_moment_large", "along_large")
    )
    return Worth(moment, along, bool(row["unbiased"]), int(row["draws"]))
