"""Pushforward rules: how a function carries k tangents along with its value.

A rule is a function in a file here, marked with the names of torch's functions that it is of; every file
is read at the first use, so a new one is found by being there. Rules run under `no_grad`, in plain tensor
operations that compile, and write only into what they allocated themselves.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


class NoRuleError(Exception):
    """A rule that does not cover these arguments: the function falls back to `torch.func.jvp`."""


Rule = Callable[..., Any]
# What torch calls the arguments that a rule takes by position.
BY_POSITION = (("input", "self"), ("other", "mat2"))
SPACES = (torch, Tensor, F, torch._C._nn, torch.special, torch.linalg)
R = TypeVar("R", bound=Rule)

RULES: dict[Any, Rule] = {}
RAW: set[Rule] = set()
"""Rules that know a parameter's tangents by themselves and keep them factored."""


def of_names(*names: str) -> list[Any]:
    """All of torch's functions and methods of these names."""
    found = (getattr(space, name, None) for name in names for space in SPACES)
    return list(dict.fromkeys(f for f in found if callable(f)))


def rule(*names: str, raw: bool = False) -> Callable[[R], R]:
    """Marks `rule(context, *arguments) → output` as that of torch's functions and methods of these names.

    Arguments that move are `Dual`; with `raw`, parameters come as they are, and the rule asks the context.
    """

    def register(found: R) -> R:
        RULES.update(dict.fromkeys(of_names(*names), found))
        if raw:
            RAW.add(found)
        return found

    return register


@cache
def read_all() -> dict[Any, Rule]:
    """The table of rules, by function."""
    for found in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{found.name}")
    return RULES


def by_position(
    arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call with torch's `input=` and `other=` at their places."""
    named = dict(options)
    for place, names in enumerate(BY_POSITION):
        found = next((name for name in names if name in named), None)
        if found is not None and len(arguments) == place:
            arguments = (*arguments, named.pop(found))
    return arguments, named


def takes(rule: Rule, *arguments: Any, **options: Any) -> bool:
    """Whether a rule can be called like this: torch's own function may take more."""
    try:
        _signature(rule).bind(*arguments, **options)
    except TypeError:
        return False
    return True


@cache
def _signature(rule: Rule) -> inspect.Signature:
    return inspect.signature(rule)
