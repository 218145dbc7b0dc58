"""Two results side by side: what changed, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fgbench.measurement.statistics import Estimate
from fgbench.regression.baseline import (
    IDENTITY,
    Cell,
    another_contract,
    cells_of,
    chosen_otherwise,
    differing,
)
from fgbench.regression.verdict import change_of
from fgbench.store.run_folder import RunFolder
from fgbench.summary.table import summarise

RUNTIME, MEMORY, TIME_TO_TARGET = "runtime ratio", "peak memory", "time-to-target ratio"


@dataclass(frozen=True)
class Difference:
    """One figure of one method of one group, in A and in B.

    Attributes:
        label: of the group and the method.
        figure: what is compared.
        a, b: the figure in each.
        change: b over a; without an interval where the figure has none.
        smallest: change that would have been seen in four of five tries; NaN where that is not known.
        why: what else differs, or why there is nothing to compare.
    """

    label: str
    figure: str
    a: Estimate
    b: Estimate
    change: Estimate
    smallest: float = math.nan
    why: str = ""

    @property
    def words(self) -> str:
        """What may be said of it."""
        if math.isnan(self.change.value):
            return "not comparable"
        if not self.change.has_interval:
            return "the same" if self.change.value == 1 else "less" if self.change.value < 1 else "more"
        if self.change.low > 1:
            return "more"
        return "less" if self.change.high < 1 else "no difference seen"


def differences(a: Sequence[RunFolder], b: Sequence[RunFolder]) -> list[Difference]:
    """Runtime ratios, peak memory and time-to-target ratios that both have, then what one lacks.

    Where a side has several runs, the spread between runs decides on runtime ratios; the other figures
    are the latest run's.

    Raises:
        ResultsError: a damaged run.
    """
    return [*_runtimes(cells_of(a), cells_of(b)), *_others(_latest(a), _latest(b))]


def _runtimes(a: Sequence[Cell], b: Sequence[Cell]) -> list[Difference]:
    left = {(cell.identity, cell.conditions): cell for cell in b}
    found = []
    for cell in a:
        keys = [key for key in left if key[0] == cell.identity]
        if not keys:
            found.append(_missing(cell, "only in A"))
            continue
        alike = [key for key in keys if not differing(cell, left[key])]
        found.append(_runtime(cell, left.pop([*alike, *keys][0])))
    return [*found, *(_missing(cell, "only in B") for cell in left.values())]


def _runtime(a: Cell, b: Cell) -> Difference:
    figures = _ratio(a), _ratio(b)
    fault = a.fault or b.fault
    if fault:
        return Difference(a.label, RUNTIME, *figures, Estimate(math.nan), why=fault)
    notes = [f"{name} {then} → {now}" for name, then, now in differing(a, b)]
    notes = [note for note in (*(notes or [another_contract(a, b)]), chosen_otherwise(a, b)) if note]
    if a.runs == b.runs == 1:
        notes.append("one run each: how much runs differ is not in the interval")
    change = change_of(a, b)
    return Difference(
        a.label, RUNTIME, *figures, change.ratio, math.expm1(change.detectable), "; ".join(notes)
    )


def _ratio(cell: Cell) -> Estimate:
    return Estimate(cell.ratio, cell.low, cell.high)


def _missing(cell: Cell, why: str) -> Difference:
    own, nothing = _ratio(cell), Estimate(math.nan)
    pair = (own, nothing) if why == "only in A" else (nothing, own)
    return Difference(cell.label, RUNTIME, *pair, nothing, why=why)


def _latest(runs: Sequence[RunFolder]) -> dict[tuple[Any, ...], pd.Series]:
    """The summary's row of each method of each group, of the latest run that has it."""
    names = [name for name in IDENTITY if name != "method"]
    return {
        (*(row[name] for name in names), row["method"]): row
        for run in runs
        for _, row in summarise(run).iterrows()
    }


def _others(a: dict[tuple[Any, ...], pd.Series], b: dict[tuple[Any, ...], pd.Series]) -> list[Difference]:
    found = []
    for key in [key for key in a if key in b]:
        one, other = a[key], b[key]
        label = f"{one['group']} {one['method']}"
        if not (pd.isna(one["peak_bytes"]) or pd.isna(other["peak_bytes"])):
            sizes = float(one["peak_bytes"]), float(other["peak_bytes"])
            change = Estimate(sizes[1] / sizes[0])
            found.append(Difference(label, MEMORY, Estimate(sizes[0]), Estimate(sizes[1]), change))
        pair = _estimate(one, "t_ratio"), _estimate(other, "t_ratio")
        if one["method"] != one["reference"] and all(0 < e.value < math.inf for e in pair):
            aims = [f"{row['target_loss']:g}" for row in (one, other) if not pd.isna(row["target_loss"])]
            why = f"target loss {' → '.join(aims)}" if len(set(aims)) > 1 else ""
            found.append(Difference(label, TIME_TO_TARGET, *pair, _over(*pair), why=why))
    return found


def _estimate(row: pd.Series, name: str) -> Estimate:
    cells = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    return Estimate(*(math.nan if pd.isna(cell) else float(cell) for cell in cells))


def _over(a: Estimate, b: Estimate) -> Estimate:
    """b / a, the two intervals' reaches on the logarithm added as independent errors are."""
    change = math.log(b.value / a.value)
    if not (a.has_interval and b.has_interval):
        return Estimate(math.exp(change))
    reach = math.hypot(*(math.log(e.high / e.low) / 2 for e in (a, b)))
    return Estimate(change, change - reach, change + reach).exponentiated()
