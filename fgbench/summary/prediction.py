"""Predict step times on another machine from a stored run's counts; a prediction is never stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from fgbench.errors import ResultsError, UsageError
from fgbench.measurement.cost import COUNTS, Work
from fgbench.measurement.prediction import Device, predict
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import BASE, Role

NEEDED = {"FLOPS": "flops", "BYTES": "bytes", "LAUNCH": "launch"}
OPTIONAL = {"RANDOM": "random"}
QUEUED = "QUEUED"
EXAMPLE = "FLOPS=989e12,BYTES=3.35e12,LAUNCH=4e-6"


def parse_device(text: str) -> Device:
    """A machine from `FLOPS=…,BYTES=…,LAUNCH=…`, optionally with `RANDOM=…` and `QUEUED=0`.

    Raises:
        UsageError: a rate is missing, unknown, given twice or not a positive number.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, sign, value = part.strip().partition("=")
        if name not in (*NEEDED, *OPTIONAL, QUEUED) or not sign:
            raise UsageError(
                f"--device {text}: '{part.strip()}' is not a rate of a machine; write it as in {EXAMPLE}."
            )
        if name in found:
            raise UsageError(f"--device {text}: {name} is given twice.")
        found[name] = _number(text, name, value)
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise UsageError(f"--device {text}: {', '.join(missing)} missing; write it as in {EXAMPLE}.")
    rates = {field: found[name] for name, field in (NEEDED | OPTIONAL).items() if name in found}
    return Device(**rates, queued=bool(found.get(QUEUED, 1)))


def _number(text: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise UsageError(f"--device {text}: {name} must be a number, not '{value}'.") from None
    allowed = number in (0, 1) if name == QUEUED else 0 < number < math.inf
    if not allowed:
        what = "0 or 1" if name == QUEUED else "a positive number"
        raise UsageError(f"--device {text}: {name} must be {what}, not {value}.")
    return number


def predicted(run: RunFolder, device: Device) -> pd.DataFrame:
    """Predictions for a machine with these rates, with a row for each method of each group.

    Columns: `group`, `method`, `seconds` (of a step), `r`, `ratio` (to the reference), `bound_by`, and
    `measured`, the ratio on the machine of the run.

    Raises:
        ResultsError: the run has no counts, or was made by an older version that did not count enough.
    """
    cost = run.read("cost")
    if cost.empty:
        raise ResultsError(f"{run.path}: the run has no counts of steps to predict from (no cost.csv).")
    if cost[list(COUNTS)].isna().any(axis=None):
        raise ResultsError(
            f"{run.path}: its cost.csv is of an older version that did not count all bytes; run it again."
        )
    ratios = run.read("ratios")
    measured = ratios[ratios["role"] == Role.METHOD].set_index(["group", "method"])["ratio"].to_dict()
    reference = run.facts()["reference"]
    rows = []
    for group, counts in cost.groupby("group", sort=False):
        of = {row["method"]: predict(_work(row), device) for row in counts.to_dict("records")}
        for method, own in of.items():
            if method == BASE:
                continue
            base, over = of.get(BASE), of.get(reference)
            rows.append(
                {
                    "group": group,
                    "method": method,
                    "seconds": own.seconds,
                    "r": own.seconds / base.seconds if base else math.nan,
                    "ratio": own.seconds / over.seconds if over else math.nan,
                    "bound_by": own.bound_by,
                    "measured": measured.get((group, method), math.nan),
                }
            )
    return pd.DataFrame(rows)


def _work(row: Mapping[Any, Any]) -> Work:
    return Work(**{name: int(row[name]) for name in COUNTS}, products=frozenset(), convolutions={})
