"""What was found, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from fgbench.measurement.statistics import Estimate
from fgbench.report.figures import interval, missing, number, target_words
from fgbench.summary.ratios import estimate
from fgbench.summary.soundness import aa_fault

SEARCHED = "searched"  # of learning rates, in a protocol


def findings(group: pd.DataFrame, aa: pd.DataFrame) -> list[str]:
    """A sentence for each method of a matched group that is not the reference.

    Args:
        group: the group's rows of the summary.
        aa: rows of ratios.csv of the A/A repeat: a reference that differs from itself by what matters
            takes a verdict back.
    """
    first = group.iloc[0]
    where = f"{first['arch']} of depth {first['depth']} on {first['device_name']}"
    others = group[group["method"] != first["reference"]]
    repeats = [estimate(row, "ratio") for _, row in aa[aa["group"] == first["group"]].iterrows()]
    sentences = []
    for _, row in others.iterrows():
        parts = [*_speed(row, repeats), *_target(row), *_prediction(row)]
        if parts:
            sentences.append(f"{where}: {'; '.join(parts)}.")
    return sentences


def _speed(row: pd.Series, repeats: Sequence[Estimate]) -> Iterator[str]:
    if missing(row["ratio"]):
        return
    cells = row["ratio"], row["ratio_low"], row["ratio_high"]
    figure = f"a {row['method']} step takes {number(*cells)} times as long as a {row['reference']} step"
    if missing(row["ratio_low"]):
        yield f"{figure}, from too few rounds to say how sure that is"
    else:
        basis = f"{int(row['processes'])} processes" if row["processes"] > 1 else "one process"
        yield f"{figure} (95 % interval {_range(*cells)}, {basis}): {_verdict(row, repeats)}"


def _range(value: float, low: float, high: float) -> str:
    return interval(value, low, high)[1:-1].replace(",", " to")


def _verdict(row: pd.Series, repeats: Sequence[Estimate]) -> str:
    for aa in repeats:
        if fault := aa_fault(aa, estimate(row, "ratio")):
            return f"no verdict, {row['reference']} {fault}"
    if row["ratio_high"] < 1:
        return "faster"
    return "slower" if row["ratio_low"] > 1 else "no difference that this run can tell"


def _target(row: pd.Series) -> Iterator[str]:
    if missing(row["runs"]):
        return
    reached, runs = int(row["reached"]), int(row["runs"])
    spent, seeds = f"in {row['train_seconds']:.3g} s", f"seed{'s' if runs > 1 else ''}"
    if not reached:
        yield f"{target_words(row)} not reached {spent} by {row['method']}, {runs} of {runs} {seeds}"
        return
    if missing(row["t_ratio"]):
        yield (
            f"{target_words(row)} reached by {row['method']} with {reached} of {runs} {seeds}, by "
            f"{row['reference']} with none"
        )
        return
    cells = row["t_ratio"], row["t_ratio_low"], row["t_ratio_high"]
    sure = _range(*cells)
    clause = f"to {target_words(row)} {row['method']} takes {number(*cells)} times the training time"
    clause += f" (95 % interval {sure}, {runs} seeds)" if sure else f" ({runs} {seeds})"
    yield clause + (f", not reached {spent} by {runs - reached} of {runs} {seeds}" if reached < runs else "")


def _prediction(row: pd.Series) -> Iterator[str]:
    """Whether the noise of its estimates explains how many steps it takes, at rates that each searched."""
    names = [f"n_{of}{end}" for of in ("ratio", "predicted") for end in ("", "_low", "_high")]
    if any(missing(row[name]) for name in names) or SEARCHED not in str(row["protocol"]):
        return
    measured, predicted = ([row[name] for name in half] for half in (names[:3], names[3:]))
    holds = predicted[1] <= measured[2] and measured[1] <= predicted[2]
    clause = f"by the length of its estimates it should take {number(*predicted)} times the steps"
    if holds:
        yield f"{clause}, which its {number(*measured)} times do not contradict"
        return
    more = predicted[0] > measured[0]
    why = "the loss is curved in few directions" if more else "its rate is not the best that is stable"
    yield f"{clause} and takes {number(*measured)}: that does not predict it, as where {why}"
