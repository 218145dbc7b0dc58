"""Starting a plan: its folder, with all that a reader needs to judge what will be in it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fgbench.measurement.environment import describe_environment
from fgbench.plan import Config, Plan, contract
from fgbench.store.run_folder import RunFolder


def new_run(plan: Plan, out: Path) -> tuple[RunFolder, dict[str, str]]:
    """A run's folder with its facts, and the contract of each group.

    Raises:
        UsageError: the folder cannot be written.
    """
    environment = _environment(plan)
    contracts = contracts_of(plan, environment)
    facts = {
        "command": shlex.join(["fgbench", *sys.argv[1:]]),
        "config": asdict(plan.config),
        "reference": plan.reference,
        "groups": [
            {
                "name": g.name,
                **asdict(g),
                "contract": contracts[g.name],
                "device_name": environment["device_name"],
            }
            for g in plan.groups
        ],
        "environment": environment,
    }
    return RunFolder.create(out, _label(plan.config), facts), contracts


def contracts_of(plan: Plan, environment: dict[str, Any] | None = None) -> dict[str, str]:
    """The contract of each group, here and now."""
    environment = environment or _environment(plan)
    return {group.name: contract(group, environment) for group in plan.groups}


def _environment(plan: Plan) -> dict[str, Any]:
    first = plan.groups[0]
    return describe_environment(first.device, first.threads)


def _label(config: Config) -> str:
    archs = "-".join(Path(a.rpartition(":")[0] or a).stem for a in config.archs)
    depths = "-".join(f"d{d}" for d in config.depths or ())
    label = "-".join(filter(None, (archs, depths)))
    if len(label) > 40:
        label = f"{len(config.archs)}x{len(config.depths or (0,))}-groups"
    return label + (f"-shard{config.shard.replace('/', 'of')}" if config.shard else "")
