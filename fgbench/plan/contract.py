"""The contract: one hash of everything that has to be equal for two results to be comparable."""

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

# Fields of a group that were added later; at their defaults they do not change the contract.
LATER = ("trained", "memory_budget")


def contract(group: Group, environment: dict[str, Any], data: str = "", weights: str = "") -> str:
    """The hash of all that must be equal for two results to be comparable, except the methods.

    The same facts are also stored one by one, in baselines and in `run.json`, so that a comparison can name
    the ones that differ.

    Args:
        group: the matched group.
        environment: the facts that `describe_environment` gives.
        data: hash of the dataset's contents.
        weights: hash of the weights that all begin from; the path of their file does not matter.
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
