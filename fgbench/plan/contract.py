"""The contract: what makes two results comparable, as one hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from fgbench import architectures
from fgbench.measurement.environment import conditions
from fgbench.plan.group import Group
from fgbench.store.schema import OLDEST_READABLE
from fgbench.version import __version__

# Fields of a group that came later: at their defaults a contract is what it was without them.
LATER = ("trained", "memory_budget")


def contract(group: Group, environment: dict[str, Any], data: str = "", weights: str = "") -> str:
    """The hash of all that must be equal for two results to be comparable, methods aside.

    Which of them differs stands beside it in a baseline and in `run.json`: whoever compares can say it.

    Args:
        group: of what.
        environment: as `describe_environment` gives it.
        data: hash of the dataset's contents.
        weights: hash of those that all begin from; the file may lie anywhere.
    """
    own = dataclasses.asdict(group)
    usual = {field.name: field.default for field in dataclasses.fields(group)}
    later = {name: own[name] for name in LATER if own[name] != usual[name]}
    if weights:
        later["weights"] = weights
    parts = {
        "schema": OLDEST_READABLE,
        "fgbench": __version__,
        "group": {k: v for k, v in own.items() if k not in (*LATER, "start")} | later,
        "device": environment["device_name"],
        **conditions(environment),
        "data": data,
        "source": architectures.source_digest(group.arch),
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=6).hexdigest()
