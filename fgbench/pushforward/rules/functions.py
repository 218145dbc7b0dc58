"""Functions of a model's own forward: arithmetic, products, and all that only moves entries about."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, duals_in, map_duals, moving, primal_of
from fgbench.pushforward.rules import NoRuleError, function_rule, module_rule


@module_rule(nn.Identity)
def identity(context: Context, module: nn.Module, x: Dual) -> Dual:
    """The same."""
    return x


@module_rule(nn.Flatten)
def flatten_module(context: Context, module: nn.Flatten, x: Dual) -> Dual:
    """nn.Flatten."""
    return flatten(context, x, module.start_dim, module.end_dim)


@function_rule(torch.flatten, "flatten")
def flatten(context: Context, x: Dual, start_dim: int = 0, end_dim: int = -1) -> Dual:
    """Dimensions of the value, which are one further on in the stack."""
    size = x.primal.dim()
    return Dual(x.stack.flatten(start_dim % size + 1, end_dim % size + 1))


@function_rule(torch.add, operator.add, operator.iadd, "add", "add_")
def add(context: Context, a: Any, b: Any, *, alpha: float = 1) -> Dual:
    """Either may be still."""
    return _sum(context, a, b if alpha == 1 else _times(b, alpha))


@function_rule(torch.sub, operator.sub, operator.isub, "sub", "sub_")
def sub(context: Context, a: Any, b: Any, *, alpha: float = 1) -> Dual:
    """Either may be still."""
    return _sum(context, a, _times(b, -alpha))


@function_rule(torch.mul, operator.mul, operator.imul, "mul", "mul_")
def mul(context: Context, a: Any, b: Any) -> Dual:
    """ȧ b + a ḃ."""
    if not isinstance(b, Dual):
        a, b = b, a
    if not isinstance(a, Dual):
        return Dual(_aligned(b, primal_of(a)).stack * a)
    a, b = _aligned(a, b.primal), _aligned(b, a.primal)
    return _stack(a.primal * b.primal, a.tangents * b.primal + a.primal * b.tangents)


@function_rule(torch.div, operator.truediv, "div")
def div(context: Context, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """By what does not move; a quotient that is rounded has no slope."""
    if rounding_mode is not None:
        return torch.div(primal_of(a), primal_of(b), rounding_mode=rounding_mode)
    if isinstance(b, Dual):
        raise NoRuleError("a divisor that moves")
    return Dual(_aligned(a, b).stack / b)


@function_rule(torch.neg, operator.neg, "neg")
def neg(context: Context, a: Dual) -> Dual:
    """−a."""
    return Dual(-a.stack)


@function_rule(torch.matmul, operator.matmul, torch.bmm, "matmul", "bmm")
def matmul(context: Context, a: Any, b: Any) -> Dual:
    """ȧ b + a ḃ, for […, n, m] and […, m, p]; the value and ȧ b in one product."""
    if primal_of(a).dim() < 2 or primal_of(b).dim() < 2:
        raise NoRuleError("vectors")
    if not isinstance(a, Dual):
        a, b = _aligned(moving(a, b.count), b.primal), _aligned(b, a)
        return _stack(a.primal @ b.primal, a.primal @ b.tangents)
    if not isinstance(b, Dual):
        return Dual(_aligned(a, b).stack @ b)
    a, b = _aligned(a, b.primal), _aligned(b, a.primal)
    out = a.stack @ b.primal
    out[1:] += a.primal @ b.tangents
    return Dual(out)


@function_rule(getattr)
def attribute(context: Context, x: Dual, name: str, *default: Any) -> Any:
    """The value's shape, type and device."""
    if name in ("T", "mT", "H", "mH"):
        raise NoRuleError("a transposition by its attribute")
    return getattr(x.primal, name, *default)


def _about_the_value(name: str) -> Callable[..., Any]:
    """The rule of a method that asks for the value's shape or type."""

    def rule(context: Context, x: Dual, *arguments: Any) -> Any:
        return getattr(x.primal, name)(*arguments)

    return rule


for _name in ("size", "dim", "numel", "is_floating_point", "stride", "is_contiguous", "element_size"):
    function_rule(_name)(_about_the_value(_name))


def _linear_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """The rule of a linear function: it does to each tangent what it does to the value."""

    def rule(context: Context, *arguments: Any, **options: Any) -> Any:
        everything = map_aggregate((arguments, options), partial(_moving_if_float, context.count))
        stacks = [d.stack for d in duals_in(everything)]

        def one(*values: Tensor) -> Any:
            supply = iter(values)
            filled, named = map_duals(lambda _: next(supply), everything)
            return function(*filled, **named)

        return _wrapped(torch.func.vmap(one)(*stacks))

    return rule


def _moving_if_float(count: int, leaf: Any) -> Any:
    still = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return moving(leaf, count) if still else leaf


def _wrapped(result: Any) -> Any:
    return Dual(result) if isinstance(result, Tensor) else tuple(Dual(r) for r in result)


@function_rule(operator.getitem)
def getitem(context: Context, x: Any, index: Any) -> Any:
    """Of a dual, or of a tuple of them."""
    return _linear_function(operator.getitem)(context, x, index) if isinstance(x, Dual) else x[index]


_BY_NAME = """
    view reshape permute transpose t unsqueeze squeeze expand expand_as repeat contiguous chunk split
    unbind unflatten mean sum narrow select movedim roll flip clone to float double type_as view_as
"""
for _name in _BY_NAME.split():
    function_rule(_name)(_linear_function(getattr(Tensor, _name)))
for _function in (
    torch.cat, torch.stack, torch.reshape, torch.permute, torch.transpose, torch.unsqueeze, torch.squeeze,
    torch.chunk, torch.split, torch.unbind, torch.unflatten, torch.mean, torch.sum, torch.movedim,
    torch.roll, torch.flip, torch.narrow, torch.select, torch.concat, torch.clone,
):  # fmt: skip
    function_rule(_function)(_linear_function(_function))


def _times(x: Any, factor: float) -> Any:
    return Dual(x.stack * factor) if isinstance(x, Dual) else x * factor


def _sum(context: Context, a: Any, b: Any) -> Dual:
    if not isinstance(a, Dual):
        a, b = b, a
    a = _aligned(a, primal_of(b))
    if isinstance(b, Dual):
        return Dual(a.stack + _aligned(b, a.primal).stack)
    return _stack(a.primal + b, a.tangents)


def _stack(value: Tensor, tangents: Tensor) -> Dual:
    """Stacked, the tangents broadcast to the value's shape."""
    return Dual(torch.cat([value.unsqueeze(0), tangents.expand(-1, *value.shape)]))


def _aligned(x: Dual, other: Any) -> Dual:
    """Its value with as many dimensions as `other`, so that both broadcast past the stack's first."""
    missing = other.dim() - x.primal.dim() if isinstance(other, Tensor) else 0
    if missing <= 0:
        return x
    return Dual(x.stack.reshape(len(x.stack), *[1] * missing, *x.stack.shape[1:]))
