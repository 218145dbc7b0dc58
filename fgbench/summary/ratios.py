"""R and the ratio to the reference, from timed samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import median
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

Rounds = Mapping[tuple[int, int], float]
"""Seconds per step, by process and round."""


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
    every = rounds_of(samples)
    measured = _complete({arm: own for arm, own in every.items() if arm[0] != Role.ALONE})
    alone = _alone({method: own for (role, method), own in every.items() if role == Role.ALONE})
    base = measured.get((Role.BASE, BASE))
    over = measured.get((Role.METHOD, reference))
    found = [_ratio(*arm, own, base, over, pilot) for arm, own in measured.items()]
    return [
        replace(
            ratio,
            alone=alone.get(ratio.method, NOTHING) if ratio.role != Role.AA else NOTHING,
            joules=(joules or {}).get(ratio.method, math.nan) if ratio.role == Role.METHOD else math.nan,
        )
        for ratio in found
    ]


def rounds_of(samples: pd.DataFrame) -> Mapping[tuple[str, str], Rounds]:
    """The seconds of each arm, by its role and method; without warm-up samples."""
    found: dict[tuple[str, str], dict[tuple[int, int], float]] = {}
    steady = samples[~samples["warm_up"].astype(bool)].dropna(subset=["seconds"])
    columns = (steady[name].tolist() for name in ("role", "method", "process", "round", "seconds"))
    for role, method, process, number, seconds in zip(*columns, strict=True):
        found.setdefault((role, method), {}).setdefault((process, number), seconds)
    return found


def _alone(rounds: Mapping[str, Rounds]) -> dict[str, Estimate]:
    """R of each method over the base, where each was timed alone: nothing pairs them but the machine."""
    logs = {
        method: [math.log(median(seconds)) for seconds in _by_process(own).values()]
        for method, own in rounds.items()
    }
    if BASE not in logs:
        return {}
    return {m: difference_interval(values, logs[BASE]).exponentiated() for m, values in logs.items()}


def _complete(measured: Mapping[tuple[str, str], Rounds]) -> Mapping[tuple[str, str], Rounds]:
    """Without the processes that were cut off early, as long as there is another."""
    counts = Counter(process for process, _ in set().union(*measured.values()))
    whole = {process for process, count in counts.items() if count >= MINIMUM_ROUNDS}
    if not whole:
        return measured
    kept = {arm: {at: s for at, s in own.items() if at[0] in whole} for arm, own in measured.items()}
    return {arm: own for arm, own in kept.items() if own}


def log_ratios(numerator: Rounds, denominator: Rounds) -> dict[int, list[float]]:
    """The log ratio inside each round in which both were timed, by process."""
    both = {at: math.log(s / denominator[at]) for at, s in numerator.items() if at in denominator}
    return _by_process(both)


def log_ratio_medians(numerator: Rounds, denominator: Rounds) -> list[float]:
    """Each process's median over its rounds of the log ratio inside the round."""
    return [median(own) for own in log_ratios(numerator, denominator).values()]


def _by_process(values: Rounds) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for (process, _), value in values.items():
        found.setdefault(process, []).append(value)
    return found


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
    role: str, method: str, seconds: Rounds, base: Rounds | None, over: Rounds | None, pilot: int
) -> Ratio:
    own = _by_process(seconds)
    return Ratio(
        method,
        role,
        median(median(rounds) for rounds in own.values()),
        _estimate(seconds, base, pilot),
        _estimate(seconds, over, pilot),
        _within(seconds, over),
        len(own),
        len(seconds),
    )


def _estimate(numerator: Rounds, denominator: Rounds | None, pilot: int) -> Estimate:
    """Over processes where there are several, over the rounds of the one where there is one."""
    if denominator is None:
        return NOTHING
    if numerator == denominator:
        return Estimate(1.0, 1.0, 1.0)
    medians = log_ratio_medians(numerator, denominator)
    if len(medians) < 2:
        return _within(numerator, denominator)
    return two_stage_interval(medians, pilot).exponentiated()


def _within(numerator: Rounds, denominator: Rounds | None) -> Estimate:
    if denominator is None:
        return NOTHING
    every = [value for own in log_ratios(numerator, denominator).values() for value in own]
    return median_interval(every).exponentiated()
