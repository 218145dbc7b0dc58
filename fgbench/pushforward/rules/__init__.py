"""Pushforward rules: how a function carries k tangents along with its value.

A rule is a function in a file of this package, marked with the names of the functions of torch that it
stands for. All files are read at the first use, so that a new one need not be listed anywhere. Rules run
under `no_grad`, in plain tensor operations that compile, and write only into memory that they allocated.
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
    """A rule does not cover these arguments: the function falls back to `torch.func.jvp`."""


Rule = Callable[..., Any]
# Torch's names for arguments that rules take by position: the first, and the second.
BY_POSITION = (("input", "self"), ("other", "mat2"))
ALIASES = {"axis": "dim", "keepdims": "keepdim"}  # numpy's names, by which torch knows arguments too
SPACES = (torch, Tensor, F, torch._C._nn, torch.special, torch.linalg)
R = TypeVar("R", bound=Rule)

RULES: dict[Any, Rule] = {}
RAW: set[Rule] = set()
"""Rules that are given parameters as they are, and keep the factors of their tangents."""


def of_names(*names: str) -> list[Any]:
    """All of torch's functions and methods of these names."""
    found = (getattr(space, name, None) for name in names for space in SPACES)
    return list(dict.fromkeys(f for f in found if callable(f)))


def rule(*names: str, raw: bool = False) -> Callable[[R], R]:
    """Mark `rule(context, *arguments) → output` as the rule of torch's functions and methods of these names.

    Arguments that have tangents are `Dual`. With `raw` parameters are passed as they are, and the rule asks
    the context for their tangents.
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
    """The call's arguments, with those that torch names `input=` and `other=` at their positions.

    Numpy's names become torch's.
    """
    named = {ALIASES.get(name, name): value for name, value in options.items()}
    for place, names in enumerate(BY_POSITION):
        found = next((name for name in names if name in named), None)
        if found is not None and len(arguments) == place:
            arguments = (*arguments, named.pop(found))
    return arguments, named


def takes(rule: Rule, *arguments: Any, **options: Any) -> bool:
    """Whether a rule accepts these arguments; torch's own function may accept more."""
    try:
        _signature(rule).bind(*arguments, **options)
    except TypeError:
        return False
    return True


@cache
def _signature(rule: Rule) -> inspect.Signature:
    return inspect.signature(rule)
