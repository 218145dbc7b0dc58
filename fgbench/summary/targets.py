"""The targets of a group and when each of its runs reached them, from the curves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
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
from fgbench.store.jobs import cut_off, leaves_out, within_budget
from fgbench.store.run_folder import RunFolder
from fgbench.summary.ratios import cells
from fgbench.training.target import Target, targets_asked

REACHED, CENSORED, DIVERGED = "reached", "censored", "diverged"
TARGET = ["target_loss", "target_accuracy"]
# Older runs have no `chance_loss`; they had these datasets, of 10 classes unless an option says otherwise.
OLDER_DATASETS = ("digits", "mnist", "fashion-mnist", "cifar10", "synthetic")
OLDER_CLASSES = 10
CELLS = [
    *TARGET,
    *("reached", "runs", "missed", "missed_seconds", "t", "t_low", "t_high", "t_median", "t_resolution"),
    *("t_ratio", "t_ratio_low", "t_ratio_high", "n_ratio", "n_ratio_low", "n_ratio_high"),
]


def targets_of(
    curves: pd.DataFrame, losses: str, accuracies: str, reference: str, chance: float = math.inf
) -> list[Target]:
    """The targets of one group; those that cannot be computed from the runs are left out.

    Args:
        curves: rows of curves.csv of one group.
        losses: target losses separated by commas: numbers, `auto` (the lowest loss that every run reached and
            held), `backprop-best` (the median over seeds of the lowest loss that the reference held), or a
            share of the reference's way there, as in `50%`.
        accuracies: target accuracies separated by commas; may be empty.
        reference: the method that `backprop-best` and shares are computed from.
        chance: the loss of a model that has learned nothing.
    """
    by_job = curves.groupby("job", sort=False)
    runs = {(run["method"].iloc[0], job): list(run["validation_loss"]) for job, run in by_job}
    of_reference = [losses for (method, _), losses in runs.items() if method == reference]
    return targets_asked(losses, accuracies, list(runs.values()), of_reference, chance)


def target_rows(curves: pd.DataFrame, jobs: pd.DataFrame, targets: Sequence[Target]) -> list[dict[str, Any]]:
    """A row of targets.csv for each target and each run of one group.

    Args:
        curves: rows of curves.csv of the group.
        jobs: rows of jobs.csv, which say how runs ended. A run that ended in an error, or was cut off, gets
            no row, as it tells nothing about the time to a target.
        targets: the targets.
    """
    ends = endings(within_budget(curves), jobs)
    runs = [(job, run) for job, run in curves.groupby("job", sort=False) if job in ends]
    return [_row(job, run, target, ends[job]) for target in targets for job, run in runs]


def endings(curves: pd.DataFrame, jobs: pd.DataFrame) -> dict[Any, str]:
    """By training job, the outcome to record for targets that it has not reached.

    It is `censored` if the job ended before the target, and `diverged` if its loss is no longer finite. Jobs
    that ended in an error, ran out of memory or were cut off are left out.
    """
    last = curves.groupby("job", sort=False)["validation_loss"].last(skipna=False)
    diverged = {job for job, loss in last.items() if not math.isfinite(loss)}
    diverged |= set(jobs["job"][jobs["status"] == DIVERGED])
    failed = set(jobs["job"][leaves_out(jobs) | cut_off(jobs)])
    return {j: DIVERGED if j in diverged else CENSORED for j in last.index if j not in failed}


def stored_targets(run: RunFolder) -> pd.DataFrame:
    """What `with_endings` says of a run.

    Raises:
        ResultsError: a table is damaged.
    """
    return with_endings(*(run.read(table) for table in ("targets", "curves", "jobs")))


def with_endings(targets: pd.DataFrame, curves: pd.DataFrame, jobs: pd.DataFrame) -> pd.DataFrame:
    """The rows of targets.csv, with how each run ended, and the earliest that it can have reached the target.

    An `outcome` that an older file calls censored becomes diverged if curves and jobs say so, and runs that
    ended in an error or were cut off are left out. `earliest_seconds` and `earliest_iterations` are one step
    after the last evaluation that did not show the target reached. Where there is none, or the target was
    not reached, they are `seconds` and `iterations`.
    """
    curves = within_budget(curves)
    targets = targets[~targets["job"].isin(jobs["job"][leaves_out(jobs) | cut_off(jobs)])]
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
    columns = ("train_seconds", "iteration", "validation_loss", "validation_accuracy")
    further = len(run) - len(within_budget(run))
    outcome = target.reached_by(*(list(run[name]) for name in columns), further=further)
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
    """A row for each group, target and trained method, with `group`, `method` and `target_cells`."""
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

    That is the lowest loss that every method reached with some seed; if there is none, the lowest that
    several methods reached. If one method alone reached any, it is the lowest that this method reached with
    every seed, so that its time is well known and bounds those of the others; failing that, with some seed.
    If no method reached any, it is the highest loss. An accuracy is the headline only if no loss was asked
    for.
    """
    if targets["target_loss"].notna().any():
        name, lowest_first = "target_loss", True
    else:
        name, lowest_first = "target_accuracy", False
    own = targets.dropna(subset=[name])
    if own.empty:
        return own
    share = (own["outcome"] == REACHED).groupby([own[name], own["method"]]).mean().groupby(level=0)
    hits, best = share.agg(lambda of_methods: (of_methods > 0).sum()), share.max()
    enough = next((n for n in (own["method"].nunique(), 2) if (hits >= n).any()), 1)
    found = hits >= enough
    if enough == 1 and (best == 1).any():
        found = best == 1
    candidates = sorted(hits[found].index, reverse=not lowest_first)
    easiest = own[name].max() if lowest_first else own[name].min()
    return own[own[name] == (candidates[0] if candidates else easiest)]


def target_cells(targets: pd.DataFrame, method: str, reference: str) -> dict[str, Any]:
    """A method's figures for one target; a figure that is unknown is None.

    They are `target_loss` or `target_accuracy`; `reached` of `runs`; `missed`, how many ended before the
    target without diverging, and `missed_seconds`, the least that one of them had spent; `t`, the expected
    running time in training seconds; `t_median` by Kaplan and Meier; `t_resolution`, the mean distance to the
    evaluation before; `t_ratio` and `n_ratio`, seconds and steps over the reference's, runs paired by seed.
    Where no run reached the target, `t` is infinite, and `t_low` is what each run spent without reaching it,
    which T exceeds; the low end of the ratios is that over the highest T of the reference.

    Args:
        targets: rows of `stored_targets` for that target.
        method: the method.
        reference: the method that ratios are over.
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
        "missed": int((own["outcome"] == CENSORED).sum()) if len(own) else None,
        "missed_seconds": None if pd.isna(least := _least_censored(own)) else least,
        **cells("t", _time(own)),
        "t_median": median_time(list(own["seconds"].mask(never, math.inf)), runs.reached)
        if len(own)
        else None,
        "t_resolution": float(own["resolution_seconds"].mean()) if any(runs.reached) else None,
        **cells("t_ratio", _ratio(paired, over, "seconds")),
        **cells("n_ratio", _ratio(paired, over, "iterations")),
    }


def _time(own: pd.DataFrame, column: str = "seconds") -> Estimate:
    """Expected running time of a method's runs; only a lower bound where none reached the target."""
    if own.empty:
        return NOTHING
    if (own["outcome"] == REACHED).any():
        return ert_interval(runs_of(own, column))
    least = _least_censored(own, column)
    return Estimate(math.inf, least, math.nan if pd.isna(least) else math.inf)


def _least_censored(own: pd.DataFrame, column: str = "seconds") -> float:
    """The least that a run which ended before the target had spent; NaN without such a run.

    A run that diverged tells nothing about the time that it would have taken.
    """
    return float(own[own["outcome"] == CENSORED][column].astype(float).min())


def _ratio(own: pd.DataFrame, over: pd.DataFrame, column: str) -> Estimate:
    runs, reference = runs_of(own, column), runs_of(over, column)
    if not any(reference.reached):
        return NOTHING  # the reference has no time to divide by
    if list(own["job"]) == list(over["job"]):
        return Estimate(1.0, 1.0, 1.0)  # the reference over itself
    if -math.inf in (runs.log_ert, reference.log_ert):
        return NOTHING  # the target was held before the first step
    if not any(runs.reached):
        spent, most = _time(own, column), ert_interval(reference)
        return Estimate(math.inf, spent.low / (most.high if most.has_interval else most.value), spent.high)
    return ert_ratio_interval(runs, reference)


def chance_of(group: Mapping[str, Any]) -> float | None:
    """The loss of a model that has learned nothing, for a group in `run.json`; None where it is unknown."""
    if "chance_loss" in group:
        return float(group["chance_loss"])
    name, options = split_spec(str(group.get("dataset", "")))
    if name not in OLDER_DATASETS:
        return None
    classes = re.search(r"\bclasses=(\d+)", options)
    return math.log(int(classes[1]) if classes else OLDER_CLASSES)


def runs_of(targets: pd.DataFrame, column: str = "seconds") -> Runs:
    """Rows of `stored_targets` for one method and target as `Runs`, in `seconds` or `iterations`."""
    spent, earliest = (list(targets[name].astype(float)) for name in (column, f"earliest_{column}"))
    return Runs(spent, list(targets["outcome"] == REACHED), earliest)
