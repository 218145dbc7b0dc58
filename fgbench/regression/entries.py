"""The ratios of runs, as entries that can be compared."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple
from typing import Any

import pandas as pd

from fgbench.measurement.environment import conditions
from fgbench.measurement.statistics import NOTHING, t_quantile
from fgbench.methods import BEST
from fgbench.regression.entry import Entry, pooled
from fgbench.specs.options import OR
from fgbench.store.repeats import repeats
from fgbench.store.run_folder import RunFolder, environment_of
from fgbench.store.schema import Role
from fgbench.summary.ratios import estimate
from fgbench.summary.soundness import AA_SHARE, THROTTLED_SHARE, aa_off, throttled_share
from fgbench.summary.table import summarise

ID_DIGITS = 8
WORTH = 0.05  # baselines should be able to show such a change; the A/A repeat has to be good enough for it


def entries_of(runs: Iterable[RunFolder]) -> list[Entry]:
    """The ratio of every method but the reference, sorted; the mean, where several runs measured it.

    Copies of runs, and runs that were merged into another one of these, are left out. Where the runs of an
    entry have different contracts, only those with the latest contract count.

    Raises:
        ResultsError: a run is damaged.
    """
    found: dict[tuple[Any, ...], list[Entry]] = {}
    for run in independent(runs):
        for entry in entries_of_run(run):
            found.setdefault((entry.identity, entry.conditions), []).append(entry)
    return sorted(pooled(own) for own in found.values())


def independent(runs: Iterable[RunFolder]) -> list[RunFolder]:
    """The runs without those that repeat others, as nothing may count twice; standard error names those.

    Raises:
        ResultsError: a run.json cannot be read.
    """
    every = list(runs)
    out = repeats(every)
    if out:
        reasons = "; ".join(f"{every[place].path} {why}" for place, why in out.items())
        print(f"fgbench: left out, as other runs have the same processes: {reasons}", file=sys.stderr)
    return [run for place, run in enumerate(every) if place not in out]


def apart_from(baseline: Iterable[Entry], runs: Sequence[RunFolder]) -> Sequence[RunFolder]:
    """The runs that a baseline was not made from, as these would hide a change; all, if it was made from all.

    Raises:
        ResultsError: a run.json cannot be read.
    """
    known = {id for entry in baseline for id in entry.ids.split()}
    own = [run for run in runs if _short(run.facts()) in known]
    if not 0 < len(own) < len(runs):
        return runs
    names = ", ".join(str(run.path) for run in own)
    print(f"fgbench: left out, as the baseline was made from them: {names}", file=sys.stderr)
    return [run for run in runs if run not in own]


def _short(facts: Mapping[str, Any]) -> str:
    """The beginning of a run's id, of a length to be read; empty for an older run, which has none."""
    return str(facts.get("id", ""))[:ID_DIGITS]


def entries_of_run(run: RunFolder, role: str = Role.METHOD) -> list[Entry]:
    """The entries of one run.

    Args:
        run: the run.
        role: Role.METHOD, or Role.SLOWED for the repeats that were made slower on purpose.

    Raises:
        ResultsError: a table is damaged.
    """
    facts, summary = run.facts(), summarise(run)
    groups = {group["name"]: group for group in facts["groups"]}
    choices = _choices(summary)
    ratios, samples = run.read("ratios"), run.read("samples")
    steady = samples[~samples["warm_up"].astype(bool)]
    entries = []
    for _, row in summary[summary["method"] != summary["reference"]].iterrows():
        own = ratios[ratios["group"] == row["group"]]
        aa = own[own["role"] == Role.AA]
        figures = own[(own["method"] == row["method"]) & (own["role"] == role)]
        if role != Role.METHOD and figures.empty:
            continue
        figure = figures.iloc[0] if len(figures) else row
        found = estimate(figure, "ratio")
        sound = 0 < found.low <= found.value <= found.high < math.inf
        known = sound and figure["processes"] > 1
        ratio, low, high = astuple(found if known else NOTHING)
        degrees = _degrees(int(figure["processes"]), facts["config"]["processes"]) if known else 0
        whole: dict[str, Any] = {name: int(row[name]) for name in ("depth", "width", "batch")}
        group = groups[row["group"]]
        where: dict[str, Any] = {**conditions(environment_of(facts, group))}
        named = ("arch", "dataset", "optimizer", "method", "reference", "dtype", "execution")
        entries.append(
            Entry(
                **{name: row[name] for name in named},
                **whole,
                device=row["device_name"],
                threads=str(row["threads"]) if row["device"] == "cpu" else "",
                **where,
                data=group.get("data", ""),
                source=group.get("source", ""),
                chosen=choices.get((row["group"], row["method"]), ""),
                trained=row["trained"],
                start=group.get("start", ""),
                memory_budget=str(group.get("memory_budget") or ""),
                validation_size=str(group.get("validation_size") or ""),
                ids=_short(facts),
                ratio=ratio,
                low=low,
                high=high,
                degrees=degrees,
                runs=1,
                spread=0.0,
                within=math.log(high / low) / 2 / t_quantile(degrees) if known else math.nan,
                floor=_floor(aa),
                rounds=int(figure["rounds"]) if known else 0,
                contract=group.get("contract", ""),
                fgbench=str(group.get("fgbench_version", facts["fgbench_version"])),
                aa=estimate(aa.iloc[0], "ratio") if len(aa) else NOTHING,
                fault=_fault(row, figure, aa, steady[steady["group"] == row["group"]], known=known),
            )
        )
    return entries


def _degrees(processes: int, pilot: int) -> int:
    """The degrees of freedom of a ratio's interval: the pilot's, as the spread is of its processes alone."""
    return min(processes, pilot if pilot > 1 else processes) - 1


def _choices(summary: pd.DataFrame) -> dict[tuple[str, str], str]:
    """By group and method, what `best` or the search chose for the method and for its reference."""
    taken = {(row["group"], row["method"]): _taken(row) for _, row in summary.iterrows()}
    over = dict(zip(summary["group"], summary["reference"], strict=True))
    return {
        (group, method): f"{own} / {taken[group, over[group]]}"
        for (group, method), own in taken.items()
        if own
    }


def _taken(row: pd.Series) -> str:
    """Those of a method's mode, optimiser and update that were chosen from several."""
    choices = {"mode": row["execution"] == BEST, "own_optimizer": OR in row["optimizer"], "update": True}
    return " ".join(str(row[n]) for n, free in choices.items() if free and not pd.isna(row[n]))


def _floor(aa: pd.DataFrame) -> float:
    """How far the A/A ratio's interval extends from 1; infinite without one, as nobody knows how far."""
    ends = [float(x) for x in aa[["ratio_low", "ratio_high"]].to_numpy().ravel() if not pd.isna(x)]
    return max((abs(end - 1) for end in ends), default=math.inf)


def _fault(row: pd.Series, figure: pd.Series, aa: pd.DataFrame, steady: pd.DataFrame, *, known: bool) -> str:
    if row["status"] != "ok" and pd.isna(row["ratio"]):
        return f"not measured: {row['status']}"
    if pd.isna(row["ratio"]):
        return "not measured"
    if not known:
        damaged = figure["processes"] > 1
        single = "one process gives no interval to judge by: leave --quick out"
        return "damaged: ratios.csv has no positive ratio within an interval" if damaged else single
    if math.isinf(_floor(aa)):
        return "no interval of the A/A repeat: how noisy the machine was is unknown"
    off = max((aa_off(estimate(repeat, "ratio")) for _, repeat in aa.iterrows()), default=0.0)
    if off > AA_SHARE * math.log1p(WORTH):
        return f"A/A failed: {row['reference']} differed from itself by {math.expm1(off):.1%} at least"
    # A GPU under load usually runs at its power limit; the report warns of that, but it is no fault.
    share = throttled_share(steady.replace({"throttle": {"power": ""}}))
    return f"throttled in {share:.0%} of blocks" if share > THROTTLED_SHARE else ""
