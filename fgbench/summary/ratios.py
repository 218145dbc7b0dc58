"""R and the ratio to the reference, from timed samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from fgbench.measurement.interleave import MINIMUM_ROUNDS
from fgbench.measurement.statistics import (
    NOTHING,
    Estimate,
    difference_interval,
    median_interval,
    two_stage_interval,
)
from fgbench.store.schema import BASE, Role


@dataclass(frozen=True)
class Ratio:
    """The figures of one arm of a group, estimated from its samples.

    Attributes:
        method: its name; for the A/A repeat, the reference's.
        role: method, base, aa or slowed.
        seconds: per step, the median over processes of the process medians.
        r: over the base of the same round.
        ratio: over the reference of the same round.
        within: the ratio again, by the rounds alone, processes pooled: what one process would claim.
        alone: R of the method and the base each timed alone; NOTHING where they were not.
        joules: per step; NaN where no energy was read.
        processes: how many.
        rounds: measured, over all processes.
    """

    method: str
    role: str
    seconds: float
    r: Estimate
    ratio: Estimate
    within: Estimate
    processes: int
    rounds: int
    alone: Estimate = NOTHING
    joules: float = math.nan

    def row(self) -> dict[str, Any]:
        """Its cells in ratios.csv."""
        return {
            "method": self.method,
            "role": self.role,
            "seconds": self.seconds,
            **cells("r", self.r),
            **cells("ratio", self.ratio),
            "ratio_within_low": missing_if_nan(self.within.low),
            "ratio_within_high": missing_if_nan(self.within.high),
            "processes": self.processes,
            "rounds": self.rounds,
            **cells("r_alone", self.alone),
            "joules": missing_if_nan(self.joules),
        }


def ratios(
    samples: pd.DataFrame, reference: str, pilot: int, joules: Mapping[str, float] | None = None
) -> list[Ratio]:
    """R and the ratio of every arm of one group.

    Args:
        samples: rows of samples.csv of one group; warm-up samples are left out here.
        reference: the method that ratios are over.
        pilot: processes that were decided on before any of them ran; see `two_stage_interval`.
        joules: per step, of the methods whose energy was read.
    """
    steady = samples[~samples["warm_up"].astype(bool)]
    measured = _complete(steady[steady["role"] != Role.ALONE])
    if measured.empty:
        return []
    alone = _alone(steady[steady["role"] == Role.ALONE])
    wide = measured.pivot_table(
        index=["process", "round"], columns=["role", "method"], values="seconds", aggfunc="first", sort=False
    )
    base = wide.get((Role.BASE, BASE))
    over = wide.get((Role.METHOD, reference))
    arms: list[tuple[str, str]] = list(wide.columns)  # type: ignore[arg-type]
    found = [_ratio(role, method, wide[role, method], base, over, pilot) for role, method in arms]
    return [
        replace(
            ratio,
            alone=alone.get(ratio.method, NOTHING) if ratio.role != Role.AA else NOTHING,
            joules=(joules or {}).get(ratio.method, math.nan) if ratio.role == Role.METHOD else math.nan,
        )
        for ratio in found
    ]


def _alone(samples: pd.DataFrame) -> dict[str, Estimate]:
    """R of each method over the base, where each was timed alone: nothing pairs them but the machine."""
    by_process = samples.groupby(["method", "process"])["seconds"].median().map(math.log)
    logs = {str(method): list(values) for method, values in by_process.groupby(level="method")}
    if BASE not in logs:
        return {}
    return {m: difference_interval(values, logs[BASE]).exponentiated() for m, values in logs.items()}


def _complete(measured: pd.DataFrame) -> pd.DataFrame:
    """Without the processes that were cut off early, as long as there is another."""
    rounds = measured.groupby("process")["round"].nunique()
    whole = rounds[rounds >= MINIMUM_ROUNDS].index
    return measured[measured["process"].isin(whole)] if len(whole) else measured


def log_ratio_medians(numerator: pd.Series, denominator: pd.Series) -> pd.Series:
    """Each process's median over its rounds of the log ratio inside the round."""
    return _log_ratio(numerator, denominator).groupby(level="process").median()


def cells(name: str, estimate: Estimate) -> dict[str, float | None]:
    """An estimate as the three cells `name`, `name_low`, `name_high`, missing where there is none."""
    return {
        name: missing_if_nan(estimate.value),
        f"{name}_low": missing_if_nan(estimate.low),
        f"{name}_high": missing_if_nan(estimate.high),
    }


def estimate(row: Mapping[Any, Any] | pd.Series, name: str) -> Estimate:
    """What `cells` made of an estimate, NaN where a cell is missing or absent."""
    found = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
    return Estimate(*(math.nan if cell is None or pd.isna(cell) else float(cell) for cell in found))


def missing_if_nan(value: float) -> float | None:
    """None, which a CSV leaves empty, for NaN."""
    return None if math.isnan(value) else value


def _ratio(
    role: str, method: str, seconds: pd.Series, base: pd.Series | None, over: pd.Series | None, pilot: int
) -> Ratio:
    complete = seconds.dropna()
    return Ratio(
        method,
        role,
        float(complete.groupby(level="process").median().median()),
        _estimate(seconds, base, pilot),
        _estimate(seconds, over, pilot),
        _within(seconds, over),
        complete.index.get_level_values("process").nunique(),
        len(complete),
    )


def _estimate(numerator: pd.Series, denominator: pd.Series | None, pilot: int) -> Estimate:
    """Over processes where there are several, over the rounds of the one where there is one."""
    if denominator is None:
        return Estimate(math.nan)
    if numerator is denominator or numerator.equals(denominator):
        return Estimate(1.0, 1.0, 1.0)
    medians = list(log_ratio_medians(numerator, denominator))
    if len(medians) < 2:
        return median_interval(list(_log_ratio(numerator, denominator))).exponentiated()
    return two_stage_interval(medians, pilot).exponentiated()


def _within(numerator: pd.Series, denominator: pd.Series | None) -> Estimate:
    if denominator is None:
        return Estimate(math.nan)
    return median_interval(list(_log_ratio(numerator, denominator))).exponentiated()


def _log_ratio(numerator: pd.Series, denominator: pd.Series) -> pd.Series:
    return (numerator / denominator).dropna().map(math.log)
