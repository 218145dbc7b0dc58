"""Runs on a cluster: what `fgbench run --on` does differently from a run on this machine."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgbench.cli.choices import Where
from fgbench.errors import UsageError

if TYPE_CHECKING:
    from fgbench.plan import Config, Plan
    from fgbench.running.watcher import Watcher


def notes() -> Watcher:
    """A watcher that only prints notes, for use while there is no run whose progress could be shown."""
    from fgbench.running.watcher import NotesAlone

    return NotesAlone(lambda text: print(f"fgbench: {text}", file=sys.stderr, flush=True))


def cluster_of(on: Where | None, options: Sequence[str], file: Path | None) -> dict[str, Any] | None:
    """The facts about the cluster for `run.json`; None for a run on this machine.

    Raises:
        UsageError: an option of Slurm is not valid, or is given without --on slurm.
    """
    from fgbench.cluster.options import slurm_options

    if on is not Where.SLURM and (options or file):
        raise UsageError("--slurm and --slurm-file need --on slurm: give that too.")
    if on is None:
        return None
    found, setup = slurm_options(file, options) if on is Where.SLURM else ({}, [])
    return {"on": on.value, "options": found, "setup": setup}


def cluster_resumed(cluster: dict[str, Any] | None, options: Sequence[str]) -> dict[str, Any] | None:
    """The facts about the cluster of a run that goes on, with the options that are others now.

    Raises:
        UsageError: as for `cluster_of`.
    """
    from fgbench.cluster.options import given_options

    if not options:
        return cluster
    if cluster is None or cluster["on"] != Where.SLURM.value:
        raise UsageError("--slurm: the run was not begun with --on slurm: leave it out.")
    return {**cluster, "options": {**cluster["options"], **given_options(options)}}


def planned(config: Config, cluster: dict[str, Any], out: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan, made on a node of the cluster, and the node's environment.

    The name of the run's jobs and the number of units are put into `cluster`.
    """
    from fgbench.cluster.run import units_of
    from fgbench.cluster.survey import survey

    cluster["name"] = f"fgbench-{secrets.token_hex(6)}"
    plan, environment = survey(config, cluster, out, notes())
    cluster["units"] = units_of(plan)
    return plan, environment
