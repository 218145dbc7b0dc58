"""Merging: the shards of one grid, as one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgbench.errors import UsageError
from fgbench.store.csv_table import records
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import TABLES

PER_SHARD = ("shard", "data_dir")  # of the config: what may differ between shards


def merge(runs: Sequence[RunFolder], out: Path) -> RunFolder:
    """One run of what several brought back, with all their rows; the runs themselves stay as they are.

    Raises:
        UsageError: fewer than two, other options in one of them, or a group in two of them.
        ResultsError: a damaged run.
    """
    if len(runs) < 2:
        raise UsageError("merge needs two runs or more: name their folders.")
    facts = [run.facts() for run in runs]
    for run, own in zip(runs, facts, strict=True):
        if _shared(own) != _shared(facts[0]):
            differing = sorted(k for k, v in _shared(own).items() if _shared(facts[0]).get(k) != v)
            raise UsageError(
                f"{run.path} and {runs[0].path} are not shards of one grid: they differ in "
                f"{', '.join(differing)}."
            )
        if own["status"] == "running":
            raise UsageError(f"{run.path} is still running, or was killed: --resume it first.")
    groups: dict[str, Any] = {}
    for run, own in zip(runs, facts, strict=True):
        for group in own["groups"]:
            if group["name"] in groups:
                raise UsageError(f"{group['name']} is in {run.path} and in another run: merge it once.")
            groups[group["name"]] = {**_where(own), **group}
    merged = RunFolder.create(
        out,
        "merged",
        {
            **{key: facts[0][key] for key in ("command", "reference", "environment")},
            "config": {**facts[0]["config"], "shard": ""},
            "groups": list(groups.values()),
            "merged": [
                {"name": run.path.name, **{key: own[key] for key in ("command", "environment")}}
                for run, own in zip(runs, facts, strict=True)
            ],
        },
    )
    for table in TABLES:
        rows = [row for run in runs for row in records(run.read(table))]
        if rows:
            merged.replace(table, rows)
    merged.finish("done" if all(own["status"] == "done" for own in facts) else "interrupted")
    return merged


def _where(facts: dict[str, Any]) -> dict[str, Any]:
    """What a shard's groups were measured on, and by: in the merged run each has its own."""
    environment = facts["environment"]
    return {
        "device_name": environment["device_name"],
        "environment": environment,
        "fgbench_version": facts["fgbench_version"],
    }


def _shared(facts: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in facts["config"].items() if key not in PER_SHARD}
    return {**own, "reference": facts["reference"]}
