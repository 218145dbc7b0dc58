"""Start a plan: make its folder, with all that a reader needs to judge the results in it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fgbench import datasets
from fgbench.architectures import short_name, source_digest
from fgbench.measurement.environment import conditions, describe_environment
from fgbench.plan import Config, Plan
from fgbench.plan.contract import contract
from fgbench.store.run_folder import NAMES, RunFolder, environment_of


def new_run(
    plan: Plan, out: Path, environment: dict[str, Any] | None = None, **more: Any
) -> tuple[RunFolder, dict[str, str]]:
    """Make a run's folder with its facts; gives it and the contract of each group.

    Args:
        plan: of the run.
        out: the folder that gets the run's.
        environment: of the machine that it is for; None describes this one.
        more: facts for `run.json` beside.

    Raises:
        UsageError: the folder cannot be written.
    """
    environment = environment or environment_for(plan)
    groups = groups_of(plan, environment)
    facts = {
        "command": shlex.join(["fgbench", *sys.argv[1:]]),
        "config": asdict(plan.config),
        "reference": plan.reference,
        "groups": groups,
        "environment": environment,
        **more,
    }
    contracts = {group["name"]: group["contract"] for group in groups}
    return RunFolder.create(out, _label(plan.config), facts), contracts


def groups_of(plan: Plan, environment: dict[str, Any]) -> list[dict[str, Any]]:
    """The facts of each group for `run.json`: what it is, and what else its figures depend on."""
    return [
        {
            "name": group.name,
            **asdict(group),
            "contract": contract(group, environment, plan.data, plan.weights),
            "device_name": environment["device_name"],
            "data": plan.data,
            "weights": plan.weights,
            "of_bytes": datasets.find(group.dataset).of_bytes,
            "source": source_digest(group.arch) or "",
            "chance_loss": plan.chance,
        }
        for group in plan.groups
    ]


def contracts_of(plan: Plan, environment: dict[str, Any] | None = None) -> dict[str, str]:
    """The contract of each group in an environment, or on this machine now."""
    groups = groups_of(plan, environment or environment_for(plan))
    return {group["name"]: group["contract"] for group in groups}


def what_changed(facts: dict[str, Any], plan: Plan, environment: dict[str, Any] | None = None) -> str:
    """What of a stored run would be another here and now, or in an environment, in words; empty for nothing.

    Args:
        facts: of its `run.json`.
        plan: of its config.
        environment: None describes this machine.
    """
    environment = environment or environment_for(plan)
    stored = {group["name"]: group for group in facts["groups"]}
    for group in groups_of(plan, environment):
        then = stored.get(group["name"], {})
        if group["contract"] == then.get("contract"):
            continue
        before = {**then, **conditions(environment_of(facts, then))}
        now = {**group, **conditions(environment)}
        names = [name for name in now if name != "contract" and now[name] != before.get(name)]
        pairs = (f"{NAMES.get(n, n)} {before.get(n) or 'none'} then, {now[n] or 'none'} now" for n in names)
        return f"{group['name']}: {'; '.join(pairs) or 'its contract'}"
    return ""


def environment_for(plan: Plan) -> dict[str, Any]:
    """The environment of this machine for a plan's jobs."""
    first = plan.groups[0]
    return describe_environment(first.device, first.threads)


def _label(config: Config) -> str:
    archs = "-".join(short_name(arch) for arch in config.archs)
    depths = "-".join(f"d{d}" for d in config.depths or ())
    batches = "-".join(f"b{b}" for b in config.batches if len(config.batches) > 1)
    label = "-".join(filter(None, (archs, depths, batches)))
    if len(label) > 40:
        label = f"{len(config.archs)}x{len(config.depths or (0,))}x{len(config.batches)}-groups"
    return label + (f"-shard{config.shard.replace('/', 'of')}" if config.shard else "")
