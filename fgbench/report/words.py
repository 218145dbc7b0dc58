"""Say what was found in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import pandas as pd

from fgbench.measurement.statistics import Estimate
from fgbench.report.figures import interval, missing, number, target_words
from fgbench.summary.ratios import estimate
from fgbench.summary.soundness import aa_fault

BOTH = 2  # a sentence can tell of two targets; if there are more, it tells of the headline target
SEARCHED = "searched"  # this word in a protocol says that learning rates were searched


def where(group: pd.DataFrame) -> str:
    """The model and the machine that a matched group's verdicts are about."""
    first = group.iloc[0]
    return f"{first['arch']} of depth {first['depth']} on {first['device_name']}"


def findings(group: pd.DataFrame, aa: pd.DataFrame, targets: pd.DataFrame | None = None) -> list[str]:
    """A sentence for each method of a matched group but the reference, and sentences on predictions.

    Arguments as for `verdicts`.
    """
    others = group[group["method"] != group["reference"]]  # what others are over needs no prediction
    predicted = (clause for _, row in others.iterrows() for clause in _prediction(row))
    return [f"{where(group)}: {said}" for said in (*verdicts(group, aa, targets), *predicted)]


def verdicts(group: pd.DataFrame, aa: pd.DataFrame, targets: pd.DataFrame | None = None) -> list[str]:
    """A sentence for each method of a matched group but the reference; `where` says what they are about.

    Args:
        group: the group's rows of the summary.
        aa: the A/A repeat's rows of ratios.csv; there is no verdict if the reference differs from itself.
        targets: rows of `by_target`; if there are two targets, a sentence tells of both, and otherwise of the
            summary's own.
    """
    first = group.iloc[0]
    others = group[group["method"] != first["reference"]]
    repeats = [estimate(row, "ratio") for _, row in aa[aa["group"] == first["group"]].iterrows()]
    there = _reached_by_reference(group, targets)
    sentences = []
    for _, row in others.iterrows():
        speed = list(_speed(row, repeats))
        aims = [
            clause for aim in _aims(row, targets) for clause in _nothing_learned(aim) or _target(aim, there)
        ]
        aims += _without_progress(row)
        if speed or aims:
            named = "" if speed else f"{row['method']}: "
            sentences.append(f"{named}{'; '.join(dict.fromkeys([*speed, *aims]))}.")
    return sentences


def _aims(row: pd.Series, targets: pd.DataFrame | None) -> list[pd.Series]:
    """The row with each of the two targets that its group has, or as it is."""
    if targets is None:
        return [row]
    own = targets[(targets["group"] == row["group"]) & (targets["method"] == row["method"])]
    return [pd.Series({**row, **aim}) for _, aim in own.iterrows()] if len(own) == BOTH else [row]


def _reached_by_reference(group: pd.DataFrame, targets: pd.DataFrame | None) -> set[str]:
    """The targets, in words, that some run of the reference reached."""
    rows = (
        group if targets is None else pd.concat([group, targets[targets["group"] == group["group"].iloc[0]]])
    )
    own = rows[(rows["method"] == group["reference"].iloc[0]) & (rows["reached"].fillna(0) > 0)]
    return {words for _, row in own.iterrows() if (words := target_words(row))}


def _speed(row: pd.Series, repeats: Sequence[Estimate]) -> Iterator[str]:
    if missing(row["ratio"]):
        return
    cells = row["ratio"], row["ratio_low"], row["ratio_high"]
    figure = f"{row['method']} takes {number(*cells)} times as long a step as {row['reference']}"
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


def _nothing_learned(row: pd.Series) -> list[str]:
    """A clause where there is no target below chance, and where a method learned nothing in its time."""
    chance = row["chance_loss"]
    if missing(chance) or missing(row["train_seconds"]):
        return []
    learned = missing(row["lowest_loss"]) or row["lowest_loss"] < chance
    if missing(row["runs"]):
        spent = f"{number(row['least_train_seconds'])} s"
        said = f"nothing was learned in {spent} that held: no loss stayed below chance, {number(chance)}"
        return [] if learned else [said]
    if missing(row["target_loss"]) or row["target_loss"] < chance:
        return []
    verdict = "no verdict" if learned else "nothing was learned"
    return [f"{verdict}: {target_words(row)} is no better than chance, {number(chance)}"]


def _without_progress(row: pd.Series) -> Iterator[str]:
    """A clause where no target tells that runs diverged, and one where the loss never fell."""
    share = row["diverged_share"]
    if missing(row["runs"]) and not missing(share) and share > 0:
        yield "training diverged with " + ("every seed" if share == 1 else f"{share:.0%} of seeds")
    if not missing(row["fall"]) and row["fall"] == 0:
        yield "its loss never fell below the first"


def _target(row: pd.Series, there: Collection[str]) -> Iterator[str]:
    """A clause on the time to the row's target; `there` has those that the reference reached."""
    if missing(row["runs"]):
        return
    reached, runs = int(row["reached"]), int(row["runs"])
    seeds = f"seed{'s' if runs > 1 else ''}"
    missed = _missed(row, seeds)
    if not reached:
        clause = f"{target_words(row)} {missed}"
        least = row["t_ratio_low"]
        yield clause + (
            f": at least {number(least)} times the training time" if not missing(least) and least > 1 else ""
        )
        return
    if missing(row["t_ratio"]):
        by = f"{target_words(row)} reached by {reached} of {runs} {seeds}"
        at_once = f"{by}, and before the first step by some, so that it is no target"
        yield at_once if target_words(row) in there else f"{by}, and by none of {row['reference']}'s"
        return
    cells = row["t_ratio"], row["t_ratio_low"], row["t_ratio_high"]
    sure = _range(*cells)
    clause = f"to {target_words(row)} it takes {number(*cells)} times the training time"
    clause += f" (95 % interval {sure}, {runs} seeds)" if sure else f" ({runs} {seeds})"
    yield clause + (f", {missed}" if reached < runs else "")


def _missed(row: pd.Series, seeds: str) -> str:
    """That some seeds did not reach the target in the time that the shortest of them had, or diverged."""
    runs, missed = int(row["runs"]), int(row["missed"])
    diverged = runs - int(row["reached"]) - missed
    if not missed:
        return f"never reached by {diverged} of {runs} {seeds}, which diverged"
    text = f"not reached in {number(row['missed_seconds'])} s by {missed} of {runs} {seeds}"
    return f"{text} (and {diverged} diverged)" if diverged else text


def _prediction(row: pd.Series) -> Iterator[str]:
    """Whether the noise of its estimates explains how many steps it takes, at rates that each searched."""
    names = [f"n_{of}{end}" for of in ("ratio", "predicted") for end in ("", "_low", "_high")]
    if any(missing(row[name]) for name in names) or SEARCHED not in str(row["protocol"]):
        return
    measured, predicted = ([row[name] for name in half] for half in (names[:3], names[3:]))
    holds = predicted[1] <= measured[2] and measured[1] <= predicted[2]
    never = math.isinf(measured[0])
    taken = f"at least {number(measured[1])}" if never else number(*measured)
    clause = (
        f"by the length of its estimates {row['method']} should take {number(*predicted)} times the steps, "
        f"and it takes {taken}"
    )
    if holds:
        yield f"{clause}: the two do not contradict each other."
        return
    more = predicted[0] > measured[0]
    why = "the loss is curved in few directions" if more else "its rate is not the best that is stable"
    yield f"{clause}: that does not predict it, as where {why}."
