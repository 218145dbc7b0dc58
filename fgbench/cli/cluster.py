"""Runs on a cluster: what `fgbench run --on` does otherwise than a run on this machine."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgbench.cli.choices import Where
from fgbench.errors import UsageError

if TYPE_CHECKING:
    from fgbench.plan import Config, Group, Plan


class Notes:
    """A watcher that prints notes alone, while there is no run yet that could be shown."""

    def phase(self, group: Group, text: str, seconds: float) -> None:
        """Not yet."""

    def progress(self, share: float, text: str) -> None:
        """Not yet."""

    def note(self, text: str) -> None:
        """Print it."""
        print(f"fgbench: {text}", file=sys.stderr, flush=True)


def cluster_of(on: Where | None, options: Sequence[str], file: Path | None) -> dict[str, Any] | None:
    """What `run.json` holds of the cluster; None for a run on this machine.

    Raises:
        UsageError: options of Slurm that are none, or without --on slurm.
    """
    from fgbench.cluster.options import slurm_options

    if on is not Where.SLURM and (options or file):
        raise UsageError("--slurm and --slurm-file are for --on slurm: give that too.")
    if on is None:
        return None
    found, setup = slurm_options(file, options) if on is Where.SLURM else ({}, [])
    return {"on": on.value, "name": f"fgbench-{secrets.token_hex(6)}", "options": found, "setup": setup}


def planned(config: Config, cluster: dict[str, Any], out: Path) -> tuple[Plan, dict[str, Any]]:
    """The plan as a node makes it, and the node's environment; counts the units into `cluster`."""
    from fgbench.cluster.run import units_of
    from fgbench.cluster.survey import survey

    plan, environment = survey(config, cluster, out, Notes())
    cluster["units"] = units_of(plan)
    return plan, environment
