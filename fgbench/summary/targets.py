"""The targets of a group and when each of its runs reached them, from the curves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fgbench.measurement.statistics import (
    NOTHING,
    Estimate,
    Runs,
    ert_interval,
    ert_ratio_interval,
    median_time,
)
from fgbench.specs.options import split_spec
from fgbench.store.jobs import leaves_out
from fgbench.store.run_folder import RunFolder
from fgbench.summary.ratios import cells
from fgbench.training.target import against_target, loss_asked

REACHED, CENSORED, DIVERGED = "reached", "censored", "diverged"
TARGET = ["target_loss", "target_accuracy"]
OLDER_DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10", "synthetic")  # of runs without `chance_loss`
OLDER_CLASSES = 10  # of each of them
CELLS = [
    *TARGET,
    *("reached", "runs", "t", "t_low", "t_high", "t_median", "t_resolution"),
    *("t_ratio", "t_ratio_low", "t_ratio_high", "n_ratio", "n_ratio_low", "n_ratio_high"),
]


@dataclass(frozen=True)
class Target:
    """What a run should reach: a validation loss at most, or a validation accuracy at least."""

    loss: float | None = None
    accuracy: float | None = None


def targets_of(
    curves: pd.DataFrame, losses: str, accuracies: str, reference: str, chance: float = math.inf
) -> list[Target]:
    """The targets of one group; fewer than asked for where `auto`, `backprop-best` or a share finds none.

    Args:
        curves: rows of curves.csv of one group.
        losses: with commas; numbers, `auto` (the lowest loss that every run reached and held),
            `backprop-best` (the median over seeds of the lowest that the reference held), or a share of its
            way there, as in `50%`.
        accuracies: numbers with commas, or empty.
        reference: the method that `backprop-best` and shares look at.
        chance: the loss of one who has learned nothing.
    """
    by_job = curves.groupby("job", sort=False)
    runs = {(run["method"].iloc[0], job): list(run["validation_loss"]) for job, run in by_job}
    of_reference = [losses for (method, _), losses in runs.items() if method == reference]
    found = [loss_asked(asked, list(runs.values()), of_reference, chance) for asked in losses.split(",")]
    return [
        *(Target(loss=loss) for loss in dict.fromkeys(found) if loss is not None),
        *(Target(accuracy=float(asked)) for asked in dict.fromkeys(accuracies.split(",")) if asked),
    ]


def target_rows(curves: pd.DataFrame, jobs: pd.DataFrame, targets: Sequence[Target]) -> list[dict[str, Any]]:
    """A row of targets.csv for each target and each run of one group.

    Args:
        curves: rows of curves.csv of the group.
        jobs: rows of jobs.csv, which say what became of a run that has not reached a target. One that an
            error ended has no row: it says nothing of the time to a target.
        targets: what to reach.
    """
    ends = endings(curves, jobs)
    runs = [(job, run) for job, run in curves.groupby("job", sort=False) if job in ends]
    return [_row(job, run, target, ends[job]) for target in targets for job, run in runs]


def endings(curves: pd.DataFrame, jobs: pd.DataFrame) -> dict[Any, str]:
    """For each training job, the outcome to record for a target that it has not reached.

    Censored: it ended before the target. Diverged: its loss is no longer finite. Jobs that an error
    or lack of memory ended are left out.
    """
    last = curves.groupby("job", sort=False)["validation_loss"].last(skipna=False)
    diverged = {job for job, loss in last.items() if not math.isfinite(loss)}
    diverged |= set(jobs["job"][jobs["status"] == DIVERGED])
    failed = set(jobs["job"][leaves_out(jobs)])
    return {j: DIVERGED if j in diverged else CENSORED for j in last.index if j not in failed}


def stored_targets(run: RunFolder) -> pd.DataFrame:
    """The rows of targets.csv, with how each run ended, and between which evaluations it got there.

    An `outcome` that an older file calls censored is diverged where curves and jobs say so, and a run that
    an error ended is left out.
    `earliest_seconds` and `earliest_iterations` are one step after the evaluation before the one that
    showed the target reached: a run cannot have reached it sooner. Without it, as `seconds`, `iterations`.

    Raises:
        ResultsError: a damaged table.
    """
    targets, curves, jobs = run.read("targets"), run.read("curves"), run.read("jobs")
    targets = targets[~targets["job"].isin(jobs["job"][leaves_out(jobs)])]
    ends = targets["job"].map(endings(curves, jobs))
    missed = (targets["outcome"] != REACHED) & ends.notna()
    evaluations = curves[["job", "iteration", "train_seconds"]].drop_duplicates(["job", "iteration"])
    before = evaluations.groupby("job", sort=False)[["iteration", "train_seconds"]].shift()
    steps = (evaluations["iteration"] - before["iteration"]).astype("float64")
    pace = (evaluations["train_seconds"] - before["train_seconds"]) / steps
    earliest = pd.DataFrame(
        {
            "job": evaluations["job"],
            "iterations": evaluations["iteration"],
            "earliest_seconds": before["train_seconds"] + pace,
            "earliest_iterations": before["iteration"].astype("float64") + 1,
        }
    )
    found = targets.assign(outcome=targets["outcome"].mask(missed, ends))
    found = found.merge(earliest, on=["job", "iterations"], how="left")
    for name in ("seconds", "iterations"):
        known = (found["outcome"] == REACHED) & found[f"earliest_{name}"].notna()
        found[f"earliest_{name}"] = found[f"earliest_{name}"].where(known, found[name].astype("float64"))
    return found


def _row(job: Any, run: pd.DataFrame, target: Target, ending: str) -> dict[str, Any]:
    # What has to be at most the target: the loss, or the accuracy with its sign turned.
    if target.loss is not None:
        values, bound = run["validation_loss"], target.loss
    else:
        assert target.accuracy is not None
        values, bound = -run["validation_accuracy"], -target.accuracy
    outcome = against_target(list(run["train_seconds"]), list(run["iteration"]), list(values), bound)
    first = run.iloc[0]
    return {
        "job": job,
        "group": first["group"],
        "method": first["method"],
        "seed": first["seed"],
        "target_loss": target.loss,
        "target_accuracy": target.accuracy,
        "outcome": REACHED if outcome.reached else ending,
        "seconds": outcome.seconds,
        "iterations": outcome.iterations,
        "resolution_seconds": outcome.resolution,
        "first_hit_seconds": outcome.first_hit_seconds,
        "first_hit_iterations": outcome.first_hit_iterations,
    }


def by_target(run: RunFolder) -> pd.DataFrame:
    """A row for each group, target and method that was trained: `group`, `method` and `target_cells`."""
    facts, targets = run.facts(), stored_targets(run)
    rows = [
        {"group": group, "method": method, **target_cells(own, method, facts["reference"])}
        for (group, *_), own in targets.groupby(["group", *TARGET], sort=False, dropna=False)
        for method in facts["config"]["methods"]
        if method in set(own["method"])
    ]
    return pd.DataFrame(rows, columns=["group", "method", *CELLS])


def headline(targets: pd.DataFrame) -> pd.DataFrame:
    """The rows of one group's headline target.

    The lowest loss that every method reached with some seed; where there is none, the lowest that several
    did, or one; where there is none either, the highest. Accuracies only where no loss was asked for.
    """
    if targets["target_loss"].notna().any():
        name, lowest_first = "target_loss", True
    else:
        name, lowest_first = "target_accuracy", False
    own = targets.dropna(subset=[name])
    if own.empty:
        return own
    hits = own[own["outcome"] == REACHED].groupby(name)["method"].nunique()
    enough = next((n for n in (own["method"].nunique(), 2) if (hits >= n).any()), 1)
    candidates = sorted(hits[hits >= enough].index, reverse=not lowest_first)
    easiest = own[name].max() if lowest_first else own[name].min()
    return own[own[name] == (candidates[0] if candidates else easiest)]


def target_cells(targets: pd.DataFrame, method: str, reference: str) -> dict[str, Any]:
    """A method's figures to one target.

    `target_loss` or `target_accuracy`; `reached` of `runs`; `t`, the expected running time in training
    seconds, `t_median` by Kaplan and Meier, `t_resolution`, the mean distance to the evaluation before;
    `t_ratio` and `n_ratio` over the reference in seconds and in steps, runs paired by seed; None where
    there is none. Where no run got there, `t` is infinite and `t_low` what each of them spent without, so
    that T is more than that; as much over the reference's T, at most, is the low end of the ratios.

    Args:
        targets: rows of `stored_targets` to that target.
        method: whose.
        reference: what ratios are over.
    """
    own = targets[targets["method"] == method].sort_values("seed")
    over = targets[targets["method"] == reference].set_index("seed")
    paired = own[own["seed"].isin(over.index)]
    over = over.loc[paired["seed"]]
    runs = runs_of(own)
    never = own["outcome"] == DIVERGED
    return {
        **{name: None if own.empty or own[name].isna().all() else own[name].iloc[0] for name in TARGET},
        "reached": sum(runs.reached) if len(own) else None,
        "runs": len(own) or None,
        **cells("t", _time(own)),
        "t_median": median_time(list(own["seconds"].mask(never, math.inf)), runs.reached)
        if len(own)
        else None,
        "t_resolution": float(own["resolution_seconds"].mean()) if any(runs.reached) else None,
        **cells("t_ratio", _ratio(paired, over, "seconds")),
        **cells("n_ratio", _ratio(paired, over, "iterations")),
    }


def _time(own: pd.DataFrame, column: str = "seconds") -> Estimate:
    """Expected running time of a method's runs, a bound alone where none of them got there."""
    if own.empty:
        return NOTHING
    if (own["outcome"] == REACHED).any():
        return ert_interval(runs_of(own, column))
    # A run that diverged says nothing of the time that it would have taken.
    least = own[own["outcome"] == CENSORED][column].astype(float).min()
    return Estimate(math.inf, float(least), math.nan if pd.isna(least) else math.inf)


def _ratio(own: pd.DataFrame, over: pd.DataFrame, column: str) -> Estimate:
    runs, reference = runs_of(own, column), runs_of(over, column)
    if not any(reference.reached):
        return NOTHING  # no ratio to a time that was never reached
    if list(own["job"]) == list(over["job"]):
        return Estimate(1.0, 1.0, 1.0)  # of the reference to itself, whenever it got there
    if not any(runs.reached):
        spent, most = _time(own, column), ert_interval(reference)
        return Estimate(math.inf, spent.low / (most.high if most.has_interval else most.value), spent.high)
    return ert_ratio_interval(runs, reference)


def chance_of(group: Mapping[str, Any]) -> float | None:
    """The loss at chance level (nothing learned) of a group in `run.json`; None where it is unknown."""
    if "chance_loss" in group:
        return float(group["chance_loss"])
    name, options = split_spec(str(group.get("dataset", "")))
    if name not in OLDER_DATASETS:
        return None
    classes = re.search(r"\bclasses=(\d+)", options)
    return math.log(int(classes[1]) if classes else OLDER_CLASSES)


def runs_of(targets: pd.DataFrame, column: str = "seconds") -> Runs:
    """Rows of `stored_targets` of one method and target as runs, in `seconds` or `iterations`."""
    spent, earliest = (list(targets[name].astype(float)) for name in (column, f"earliest_{column}"))
    return Runs(spent, list(targets["outcome"] == REACHED), earliest)
