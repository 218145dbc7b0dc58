"""Pushforward rules: how a layer or a function carries k tangents along with its value.

A rule is a function in a file here, marked `@module_rule(class, …)`, `@function_rule(function, …)` or
`@loss_rule(function, …)`; every file is read at the first use, so a new one is found by being there.
Rules run under `no_grad`, in plain tensor operations that compile, and write only into what they
allocated themselves.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize


class NoRuleError(Exception):
    """A rule that does not cover these arguments: the function falls back to `torch.func.jvp`."""


Rule = Callable[..., Any]
# What torch calls the arguments that a rule takes by position.
BY_POSITION = (("input", "self"), ("other", "mat2"))
R = TypeVar("R", bound=Rule)

_MODULES: dict[type, Rule] = {}
_FUNCTIONS: dict[Any, Rule] = {}
_LOSSES: dict[Any, Rule] = {}


def module_rule(*classes: type) -> Callable[[R], R]:
    """Marks `rule(context, module, *inputs) → output` as that of module classes."""
    return _registering(_MODULES, classes)


def function_rule(*functions: Any) -> Callable[[R], R]:
    """Marks `rule(context, *arguments) → output` as that of functions, or of methods by their names."""
    return _registering(_FUNCTIONS, functions)


def loss_rule(*losses: Any) -> Callable[[R], R]:
    """Marks `rule(output, target) → (loss [], derivatives per sample [k, batch])` as that of losses.

    A loss is a function, or a module class: then an instance whose options are the defaults.
    """
    return _registering(_LOSSES, losses)


def _registering(table: dict[Any, Rule], keys: tuple[Any, ...]) -> Callable[[R], R]:
    def register(rule: R) -> R:
        table.update(dict.fromkeys(keys, rule))
        return rule

    return register


@cache
def _read_all() -> None:
    for found in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{found.name}")


def rule_of_module(module: nn.Module) -> Rule | None:
    """The rule of a module's class, or of the one whose `forward` it inherits; None where it has none.

    A module with hooks or parametrizations has none: it does more than its class says.
    """
    _read_all()
    if module._forward_hooks or module._forward_pre_hooks or parametrize.is_parametrized(module):
        return None
    forward = type(module).forward
    for owner in type(module).__mro__:
        if owner in _MODULES and forward is owner.forward:  # type: ignore[attr-defined]
            return _MODULES[owner]
    return None


def rule_of_function(function: Any) -> Rule | None:
    """The rule of a function, or of a method by its name; None where it has none."""
    _read_all()
    return _FUNCTIONS.get(function)


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
        inspect.signature(rule).bind(*arguments, **options)
    except TypeError:
        return False
    return True


def rule_of_loss(loss: Any) -> Rule | None:
    """The rule of a loss; None where it has none."""
    _read_all()
    if isinstance(loss, nn.Module):
        plain = type(loss) in _LOSSES and _options(loss) == _options(type(loss)())
        return _LOSSES[type(loss)] if plain else None
    return _LOSSES.get(loss)


def _options(loss: nn.Module) -> dict[str, Any]:
    hidden = ("training",)
    return {k: v for k, v in vars(loss).items() if not k.startswith("_") and k not in hidden} | {
        "buffers": list(loss.buffers())
    }
