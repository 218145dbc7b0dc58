"""Functions that pick, mask or write entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, moving, primal_of
from fgbench.pushforward.rules import RULES, NoRuleError, rule
from fgbench.pushforward.rules.arithmetic import aligned


@rule("masked_fill")
def masked_fill(context: Context, x: Any, mask: Tensor, value: Any) -> Dual:
    """Filled entries have tangents of zero, or those of the value they are filled with."""
    if not isinstance(x, Dual) or isinstance(value, Dual):
        return where(context, mask, value, x)
    out = torch.where(mask, 0, aligned(x, mask).stack)
    out[0].masked_fill_(mask, value)
    return Dual(out, spare=True)


@rule("where")
def where(context: Context, condition: Any, a: Any = None, b: Any = None) -> Dual:
    """Entries of a where the condition holds, of b elsewhere, with their tangents."""
    if a is None or b is None:
        raise NoRuleError("places")
    condition = primal_of(condition)
    if not isinstance(a, Dual) and not isinstance(b, Dual):
        return torch.where(condition, a, b)  # type: ignore[return-value]
    value = torch.where(condition, primal_of(a), primal_of(b))
    moved = [aligned(x, value).tangents if isinstance(x, Dual) else 0 for x in (a, b)]
    tangents: Tensor = torch.where(condition, moved[0], moved[1]).to(value.dtype)  # type: ignore[arg-type]
    return Dual(torch.cat([value.unsqueeze(0), tangents.expand(-1, *value.shape)]), spare=True)


def where_else(context: Context, x: Any, condition: Any, other: Any) -> Dual:
    """The method: entries of x where the condition holds, of the other elsewhere."""
    return where(context, condition, x, other)


RULES[Tensor.where] = where_else


@rule("__getitem__")
def getitem(context: Context, x: Any, index: Any) -> Any:
    """Entries picked by numbers, slices or tensors, with their tangents."""
    if not isinstance(x, Dual):
        return x[index]
    index = index if isinstance(index, tuple) else (index,)
    if isinstance(index[0], list) and len(index) == 1:
        index = (torch.tensor(index[0], device=x.stack.device),)
    if _apart(index):
        return Dual(torch.stack([s[index] for s in x.stack]))
    return Dual(x.stack[(slice(None), *index)])


def _apart(index: tuple[Any, ...]) -> bool:
    """Whether tensors among the indices are apart; torch then puts their dimensions first."""
    arrays = Tensor | list | np.ndarray
    places = [i for i, part in enumerate(index) if isinstance(part, arrays) or type(part) is bool]
    return bool(places) and (places[-1] - places[0] + 1 != len(places) or type(index[places[0]]) is bool)


@rule("__setitem__")
def setitem(context: Context, x: Any, index: Any, value: Any) -> Any:
    """Write into x in place; an x without tangents is replaced by a copy that has them."""
    out = moving(x, context.count)
    index = index if isinstance(index, tuple) else (index,)
    if isinstance(value, Dual):
        for into, part in zip(out.stack, value.stack, strict=True):
            into[index] = part
    else:
        out.stack[0][index] = value
        for into in out.stack[1:]:
            into[index] = 0
    return out


def _adds(name: str) -> None:
    """What writes a tensor, or a number, into places along a dimension, or adds it there."""
    function = getattr(torch, name)

    def along(context: Context, x: Any, dim: int, index: Tensor, *given: Any, **named: Any) -> Dual:
        out = moving(x, context.count)
        on = dim % max(out.stack.dim() - 1, 1) + 1
        key = next((key for key in ("src", "source") if key in named), None)
        source = named.pop(key) if key else given[0] if given else named.pop("value")
        if not isinstance(source, Tensor | Dual):
            still = function(out.primal, dim, index, source, **named)
            index = index.expand(len(out.stack), *index.shape)
            moved = function(out.stack, on, index, 0.0, **named)
            moved[0] = still
            return Dual(moved, spare=True)
        if "reduce" in named:
            raise NoRuleError("a reduction")
        if name != "index_add":
            index = index.expand(len(out.stack), *index.shape)
        return Dual(function(out.stack, on, index, moving(source, context.count).stack, **named), spare=True)

    rule(name)(along)


for _name in ("scatter", "scatter_add", "index_add"):
    _adds(_name)


@rule("copy_")
def copy_(context: Context, x: Any, value: Any, non_blocking: bool = False) -> Dual:
    """Copy a value into x in place."""
    return setitem(context, x, ..., value)


@rule("masked_fill_")
def masked_fill_(context: Context, x: Any, mask: Tensor, value: Any) -> Dual:
    """As `masked_fill`, in place."""
    out = masked_fill(context, x, mask, value)
    if isinstance(x, Dual):
        x.stack.copy_(out.stack)
        return x
    return out


@rule("zero_", "fill_")
def fill_(context: Context, x: Any, value: Any = 0) -> Dual:
    """Fill in place: with a number, the tangents become zero."""
    if isinstance(value, Dual):
        return setitem(context, x, ..., value)  # type: ignore[no-any-return]
    x.stack.zero_()
    x.stack[0].fill_(value)
    return x
