"""Compare two results: what changed, by how much, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fgbench.measurement.statistics import NOTHING, Estimate
from fgbench.regression.checking import change_of
from fgbench.regression.entries import entries_of, independent
from fgbench.regression.entry import IDENTITY, Entry, another_contract, chosen_otherwise, differing, label_of
from fgbench.report.figures import target_words
from fgbench.store.run_folder import RunFolder
from fgbench.summary.ratios import estimate
from fgbench.summary.table import summarise

# These conditions have to be equal; one may want to compare versions, the model's code or data.
APART = ("device", "dtype", "threads", "execution")
RUNTIME, MEMORY, TIME_TO_TARGET = "runtime ratio", "peak memory", "time-to-target ratio"


@dataclass(frozen=True)
class Difference:
    """One figure of one method of one group, in A and in B.

    Attributes:
        label: names the group and the method.
        figure: the name of the figure.
        a, b: the figure in A and in B.
        change: b over a; without an interval where the figure has none.
        smallest: the change that would have been seen in four of five tries; NaN where that is unknown.
        why: what else differs, or why the figures cannot be compared.
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
        """The verdict on the change, in words."""
        if math.isnan(self.change.value):
            return "not comparable"
        if not self.change.has_interval and self.figure != MEMORY:
            return "no interval to judge by"
        if not self.change.has_interval:
            beyond = round(self.change.value - 1, 3)  # what is shown as 0.0 % is the same
            return "the same" if beyond == 0 else "less" if beyond < 0 else "more"
        if self.change.low > 1:
            return "more"
        return "less" if self.change.high < 1 else "no difference seen"


def differences(a: Sequence[RunFolder], b: Sequence[RunFolder]) -> list[Difference]:
    """Compare runtime ratios, peak memory and time-to-target ratios, and say what cannot be compared.

    Device, dtype, threads, execution mode and optimiser have to be equal; for a time to target also the
    target, and how learning rates were found. Torch's version and the contract may differ, which is noted.
    Where a side has several runs, the spread between runs decides on runtime ratios; other figures are those
    of the latest run. On either side, copies of runs and runs that were merged into another one are left out.

    Raises:
        ResultsError: a run is damaged.
    """
    a, b = independent(a), independent(b)
    sides = _rows(a), _rows(b)
    return [
        *_runtimes(entries_of(a), entries_of(b)),
        *_others(MEMORY, *sides),
        *_others(TIME_TO_TARGET, *sides),
    ]


def _runtimes(a: Sequence[Entry], b: Sequence[Entry]) -> list[Difference]:
    left = {(entry.identity, entry.conditions): entry for entry in b}
    found = []
    for entry in a:
        same = [other for other in left.values() if other.identity == entry.identity]
        alike = [other for other in same if not _apart(entry, other)]
        if alike:
            other = next((o for o in alike if not differing(entry, o)), alike[0])
            found.append(_runtime(entry, left.pop((other.identity, other.conditions))))
        else:
            found.append(_missing(entry, _apart(entry, same[0]) if same else "only in A", in_a=True))
    seen = {entry.identity: entry for entry in reversed(a)}
    for entry in left.values():
        near = seen.get(entry.identity)
        why = "only in B" if near is None else _apart(near, entry)
        found.append(_missing(entry, why or "its counterpart in A is compared with another", in_a=False))
    return found


def _apart(a: Entry, b: Entry) -> str:
    """In words, the conditions that have to be equal for a comparison but differ; empty where none does."""
    return "; ".join(f"{name} {one} → {other}" for name, one, other in differing(a, b) if name in APART)


def _unlike(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """In words, what differs; empty where nothing does."""
    pairs = [(name, value or "none", now[name] or "none") for name, value in then.items()]
    return "; ".join(f"{name} {one} → {other}" for name, one, other in pairs if one != other)


def _runtime(a: Entry, b: Entry) -> Difference:
    figures = _ratio(a), _ratio(b)
    fault = a.fault or b.fault
    if fault:
        return Difference(a.label, RUNTIME, *figures, Estimate(math.nan), why=fault)
    notes = [f"{name} {then} → {now}" for name, then, now in differing(a, b)]
    notes = [note for note in (*(notes or [another_contract(a, b)]), chosen_otherwise(a, b)) if note]
    if a.runs == b.runs == 1:
        notes.append("one run each: the interval does not include how much runs differ")
    change = change_of(a, b)
    return Difference(
        a.label, RUNTIME, *figures, change.ratio, math.expm1(change.detectable), "; ".join(notes)
    )


def _ratio(entry: Entry) -> Estimate:
    return Estimate(entry.ratio, entry.low, entry.high)


def _missing(entry: Entry, why: str, *, in_a: bool) -> Difference:
    own, nothing = _ratio(entry), Estimate(math.nan)
    return Difference(entry.label, RUNTIME, *((own, nothing) if in_a else (nothing, own)), nothing, why=why)


@dataclass(frozen=True)
class _Row:
    """A row of a run's summary, with torch's version and the contract of its group."""

    summary: pd.Series
    torch: str
    contract: str

    @property
    def identity(self) -> tuple[Any, ...]:
        return tuple(self.summary[name] for name in IDENTITY)

    def figure(self, name: str) -> Estimate:
        """A figure of the row; NaN where there is none to compare."""
        row = self.summary
        if name == MEMORY:
            return estimate({MEMORY: row["peak_bytes"]}, MEMORY)
        found = NOTHING if row["method"] == row["reference"] else estimate(row, "t_ratio")
        return found if 0 < found.value < math.inf else NOTHING

    def conditions(self, figure: str) -> dict[str, str]:
        """The conditions that have to be equal for a figure to be compared."""
        row = self.summary
        own = {
            "device": row["device_name"],
            "dtype": row["dtype"],
            "threads": str(row["threads"]) if row["device"] == "cpu" else "",
            "execution": row["execution"] if pd.isna(row["mode"]) else row["mode"],
            "optimizer": row["optimizer"] if pd.isna(row["own_optimizer"]) else row["own_optimizer"],
        }
        if figure == TIME_TO_TARGET:
            own |= {"protocol": row["protocol"], "target": target_words(row)}
        return own


def _rows(runs: Sequence[RunFolder]) -> list[_Row]:
    found = []
    for run in runs:
        facts = run.facts()
        torch = ".".join(str(facts["environment"]["libraries"]["torch"]).split(".")[:2])
        contracts = {group["name"]: group.get("contract", "") for group in facts["groups"]}
        found += [_Row(row, torch, contracts[row["group"]]) for _, row in summarise(run).iterrows()]
    return found


def _others(figure: str, a: Sequence[_Row], b: Sequence[_Row]) -> list[Difference]:
    """The differences in a figure of the summary, and the rows that have no counterpart on the other side."""
    mine, theirs = ({_key(row, figure): row for row in side if _has(row, figure)} for side in (a, b))
    found = []
    for key, row in mine.items():
        if other := theirs.get(key):
            found.append(_other(figure, row, other))
        else:
            found.append(_left_out(figure, row, b, "only in A"))
    lone = [row for key, row in theirs.items() if key not in mine]
    known = {row.identity for row in mine.values()}  # these were reported from A's side
    return [
        *found,
        *(_left_out(figure, row, [], "only in B") for row in lone if row.identity not in known),
    ]


def _has(row: _Row, figure: str) -> bool:
    return not math.isnan(row.figure(figure).value)


def _key(row: _Row, figure: str) -> tuple[Any, ...]:
    return row.identity, *row.conditions(figure).values()


def _other(figure: str, a: _Row, b: _Row) -> Difference:
    notes = [_unlike({"torch": a.torch}, {"torch": b.torch})]
    if a.contract != b.contract and not notes[0]:
        notes.append("another contract: the model's code or the held-out set")
    pair = a.figure(figure), b.figure(figure)
    return Difference(_label(a), figure, *pair, _over(*pair), why="; ".join(filter(None, notes)))


def _left_out(figure: str, row: _Row, others: Sequence[_Row], alone: str) -> Difference:
    near = [other for other in others if other.identity == row.identity]
    why = alone
    if near:
        missing = "no time to it in B" if figure == TIME_TO_TARGET else alone
        why = _unlike(row.conditions(figure), near[-1].conditions(figure)) or missing
    own = row.figure(figure)
    pair = (NOTHING, own) if alone == "only in B" else (own, NOTHING)
    return Difference(_label(row), figure, *pair, NOTHING, why=why)


def _label(row: _Row) -> str:
    return label_of(["" if pd.isna(value) else value for value in row.identity])


def _over(a: Estimate, b: Estimate) -> Estimate:
    """b / a; on the logarithm, errors of both are added as independent, each to the side where it counts.

    A time to target may reach much further to one side: b / a is lower where b is lower or a is higher.
    """
    change = math.log(b.value / a.value)
    if not (a.has_interval and b.has_interval):
        return Estimate(math.exp(change))
    down = math.hypot(math.log(b.value / b.low), math.log(a.high / a.value))
    up = math.hypot(math.log(b.high / b.value), math.log(a.value / a.low))
    return Estimate(change, change - down, change + up).exponentiated()
