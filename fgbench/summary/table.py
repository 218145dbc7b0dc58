"""The summary table: a row for each method of each group, with all that was measured of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgbench.measurement.statistics import Estimate, mean_interval
from fgbench.store.jobs import curves_to_the_end, ended, within_budget
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import Role
from fgbench.summary.losses import LOSSES, losses_of_runs
from fgbench.summary.ratios import cells
from fgbench.summary.targets import chance_of, headline, target_cells, with_endings
from fgbench.summary.worth import ALL, worth_cells
from fgbench.training.decay import decay_of

GROUP_COLUMNS = (
    "arch",
    "dataset",
    "depth",
    "width",
    "batch",
    "dtype",
    "device",
    "threads",
    "execution",
    "optimizer",
    "trained",
    "memory_budget",
)
USUAL = {"trained": "all", "memory_budget": None}  # for older runs, made before there was a choice

ACTIVATIONS = "peak_activations_and_temporaries"
HOST, DEVICE, UNKNOWN = "host", "device", "unknown"  # what bounds the time of a step
LAUNCH_BOUND = 0.8  # a step is launch-bound if the GPU works in less than this share of its time

TABLES = ("jobs", "ratios", "memory", "curves", "targets", "load", "cost", "quality", "variants")
# Tables of which a method's own rows are looked at alone.
OF_METHODS = ("jobs", "ratios", "memory", "ends", "load", "variants")
RATIO_COLUMNS = (
    *("seconds", "r", "r_low", "r_high", "r_alone", "r_alone_low", "r_alone_high"),
    *("ratio", "ratio_low", "ratio_high", "ratio_within_low", "ratio_within_high"),
    *("processes", "rounds", "stopped", "joules"),
)


def summarise(run: RunFolder) -> pd.DataFrame:
    """A row for each method of each group of a run.

    A value that was not measured is NA. Estimates (marked *) also have columns ending in `_low` and `_high`.

    - The group: `group`, its columns as in `GROUP_COLUMNS`, `device_name`, `start` (the file of weights that
      all begin from), `chance_loss` (of a model that has learned nothing), `protocol` (how learning rates
      were found, and what ends a run).
    - The method: `method`, `reference`, its own `mode` and `own_optimizer`, the `update` or the `variant`
      that was chosen for it, `parameters` (how many are trained), `status`.
    - Time of a step: `seconds`, `r`*, `r_alone`* (timed with nothing else in the process), `ratio`* (to the
      reference), `ratio_within_low` and `_high` (the interval by the rounds alone), `first_call_seconds` (of
      the slowest process), `processes`, `rounds`, `stopped`, `joules`, `busy_share` (of the time in which
      the GPU works), `bound_by` (host, device or unknown).
    - Cost: `flops`, `flop_ratio` (to the reference), `floor_ratio` (the least time that the machine needs for
      a step, over that for the reference), `floor_share` (that least time over the measured time),
      `peak_bytes`, `activation_bytes` (the activations' part of the peak).
    - Training, of runs that got to their end or diverged: `t`* (expected seconds to the target), `t_ratio`*
      and `n_ratio`* (seconds and steps over the reference's), `target_loss` or `target_accuracy` (the
      headline target), `t_median` (Kaplan and Meier), `t_resolution` (distance of evaluations), `reached` and
      `runs`, `missed` (runs that ended before the target), `missed_seconds` (the least that one had spent),
      `learning_rate`, `validation_loss`* at the end, `lowest_loss`* on the way there,
      `bits_per_byte`* (where bytes of a text are predicted), `validation_accuracy`, `rise`* (of the last loss
      above the lowest), `fall` (of the lowest below the first: 0 where training stood still),
      `diverged_share` (of runs), `evaluation_share` (of training's seconds), `train_seconds` (of the longest
      run), `least_train_seconds` (of the shortest run that did not diverge).
    - Quality: `cosine` and `second_moment` of the estimates at the weights of the reference's training,
      `n_predicted`*, the steps ratio that they predict, and `non_finite`, the share of directional
      derivatives that are not finite, at those weights and along the method's own training.

    Raises:
        ResultsError: a table is damaged.
    """
    tables = {name: run.read(name) for name in TABLES}
    curves, jobs, quality = tables.pop("curves"), tables["jobs"], tables["quality"]
    tables["jobs"] = jobs.assign(ended=ended(jobs))
    # A loss "at the end" of a run that failed or was cut off is none, as such a run has no T either.
    tables["ends"] = losses_of_runs(curves_to_the_end(within_budget(curves), jobs))
    tables["targets"] = with_endings(tables["targets"], curves, jobs)
    tables["quality"] = quality[quality["layer"] == ALL]  # most rows are of single layers
    facts = run.facts()
    rows = [
        {
            "group": group["name"],
            **{column: group[column] if column in group else USUAL[column] for column in GROUP_COLUMNS},
            "start": Path(group.get("start", "")).name,
            "device_name": group.get("device_name", facts["environment"]["device_name"]),
            "method": method,
            "reference": facts["reference"],
            "protocol": protocol(facts["config"]),
            "chance_loss": chance_of(group),
            **_cells_of(
                own,
                method,
                facts["reference"],
                of_bytes=group.get("of_bytes", False),
            ),
        }
        for group in facts["groups"]
        for own in [_of_group(tables, group["name"])]
        for method in facts["config"]["methods"]
    ]
    return pd.DataFrame(rows)


def _of_group(tables: Mapping[str, pd.DataFrame], group: str) -> dict[str, pd.DataFrame]:
    """A group's rows; of its targets those of the headline."""
    own = {name: table[table["group"] == group] for name, table in tables.items()}
    return {**own, "targets": headline(own["targets"])}


def protocol(config: Mapping[str, Any]) -> str:
    """How learning rates were found and what ended a training job, in words, from a stored config."""
    rate, decay = config.get("learning_rate"), decay_of(config.get("lr_decay", 0.0)).in_words()
    rates = "learning rates searched for each method alike"
    if rate is not None:
        several = isinstance(rate, list | tuple)
        rates = "a learning rate given to each method" if several else f"learning rate {rate:g} for all"
    limits = [
        f"{config[name]:g} {unit}"
        for name, unit in (
            ("max_train_seconds", "s"),
            ("max_iterations", "steps"),
            ("max_queries", "queries"),
            ("patience", "epochs without a lower loss"),
        )
        if config.get(name)
    ]
    return rates + (f", {decay}" * bool(decay)) + f"; {' or '.join(limits)} a run" * bool(limits)


def aa_rows(run: RunFolder) -> pd.DataFrame:
    """The A/A repeat of each group: the reference against itself."""
    ratios = run.read("ratios")
    return ratios[ratios["role"] == Role.AA]


def _cells_of(
    tables: dict[str, pd.DataFrame], method: str, reference: str, *, of_bytes: bool
) -> dict[str, Any]:
    own = {name: tables[name][tables[name]["method"] == method] for name in OF_METHODS}
    timed = own["ratios"][own["ratios"]["role"] == Role.METHOD]  # without its repeats
    return {
        **{column: _first(timed, column) for column in RATIO_COLUMNS},
        **_step_cells(own["jobs"]),
        **_load_cells(own["load"]),
        **cost_cells(tables["cost"], _first(timed, "seconds"), method, reference),
        **worth_cells(tables["quality"], method, reference),
        "activation_bytes": _first(own["memory"][own["memory"]["kind"] == ACTIVATIONS], "bytes"),
        "peak_bytes": _first(own["memory"][own["memory"]["kind"] == "peak_allocated"], "bytes"),
        "variant": _first(
            own["variants"][own["variants"]["chosen"].fillna(value=False).astype(bool)], "variant"
        ),
        **target_cells(tables["targets"], method, reference),
        "parameters": next(iter(tables["jobs"]["parameters"].dropna()), None),
        **_final_cells(own["ends"], own["jobs"], of_bytes=of_bytes),
        **_evaluation_cells(own["ends"]),
        "status": _status(own["jobs"]),
    }


def cost_cells(cost: pd.DataFrame, seconds: float | None, method: str, reference: str) -> dict[str, Any]:
    """The FLOPs of a step, its floor over the reference's floor, and the share of its time that is floor."""
    own, over = cost[cost["method"] == method], cost[cost["method"] == reference]
    floor, reference_floor = _first(own, "floor_seconds"), _first(over, "floor_seconds")
    return {
        "flops": _first(own, "flops"),
        "flop_ratio": _ratio_of(_first(own, "flops"), _first(over, "flops")),
        "floor_ratio": _ratio_of(floor, reference_floor),
        "floor_share": floor / seconds if floor and seconds else None,
    }


def _ratio_of(value: float | None, over: float | None) -> float | None:
    return value / over if value and over else None


def _load_cells(load: pd.DataFrame) -> dict[str, Any]:
    """The share of a step's time in which the device works, and what the step is therefore bound by."""
    share = (load["busy_seconds"] / load["seconds"]).median()
    if pd.isna(share):
        return {"busy_share": None, "bound_by": UNKNOWN if len(load) else None}
    return {"busy_share": float(share), "bound_by": HOST if share < LAUNCH_BOUND else DEVICE}


def _step_cells(jobs: pd.DataFrame) -> dict[str, Any]:
    first = jobs["first_call_seconds"].max()
    cells = {"first_call_seconds": None if pd.isna(first) else float(first)}
    last = jobs[jobs["phase"] != "modes"].tail(1)
    return cells | {
        "mode": _first(last, "execution"),
        "own_optimizer": _first(last, "optimizer"),
        "update": _first(last, "update"),
    }


def _final_cells(last: pd.DataFrame, jobs: pd.DataFrame, *, of_bytes: bool) -> dict[str, Any]:
    finite = last[np.isfinite(last["validation_loss"])]
    complete = len(finite) == len(last)  # a mean over the other runs alone would look too good
    whole = {name: list(finite[name]) if complete else [] for name in LOSSES}
    bits = [loss / math.log(2) for loss in whole["validation_loss"] if of_bytes]
    runs = jobs[jobs["phase"] == "train"]
    return {
        "learning_rate": _first(runs, "learning_rate"),
        **cells("validation_loss", _mean_of_losses(whole["validation_loss"])),
        **cells("bits_per_byte", _mean_of_losses(bits)),
        **cells("lowest_loss", _mean_of_losses(whole["lowest_loss"])),
        "fall": float(last["fall"].mean()) if last["iteration"].any() else None,
        **cells("rise", mean_interval(list(finite["rise"])).not_below(0.0)),
        "diverged_share": _share_of(runs[runs["ended"]], "diverged"),
        "validation_accuracy": float(last["validation_accuracy"].mean()) if len(last) else None,
    }


def _mean_of_losses(losses: list[float]) -> Estimate:
    """The mean over seeds; where no loss is below 0, as no cross-entropy can be, no end of it is either."""
    found = mean_interval(losses)
    return found.not_below(0.0) if min(losses, default=0.0) >= 0 else found


def _share_of(jobs: pd.DataFrame, status: str) -> float | None:
    return float((jobs["status"] == status).mean()) if len(jobs) else None


def _evaluation_cells(last: pd.DataFrame) -> dict[str, Any]:
    """The share of time that evaluations took, and the training seconds of the longest and shortest runs.

    A run that diverged is the shortest only where all did.
    """
    spent = last["train_seconds"].sum()
    finite = last[[math.isfinite(loss) for loss in last["validation_loss"]]]
    whole = finite if len(finite) else last
    return {
        "evaluation_share": float(last["evaluation_seconds"].sum() / spent) if spent > 0 else None,
        "train_seconds": float(last["train_seconds"].max()) if spent > 0 else None,
        "least_train_seconds": float(whole["train_seconds"].min()) if spent > 0 else None,
    }


def _status(jobs: pd.DataFrame) -> str:
    odd = jobs["status"][jobs["status"] != "ok"]
    return "ok" if odd.empty else ", ".join(f"{count} {name}" for name, count in odd.value_counts().items())


def _first(frame: pd.DataFrame, column: str) -> Any:
    value = None if frame.empty else frame[column].iloc[0]
    return None if pd.isna(value) else value
