"""What shows entries in other places, once or several times over, and the parts of complex numbers.

Where torch gives a view, so do the rules: what is written into it is written into what it shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, primal_of
from fgbench.pushforward.rules import RULES, NoRuleError, rule
from fgbench.pushforward.rules.shapes import contiguous, expand, mh, on_stack, repeat, sizes_of


@rule("tile")
def tile(context: Context, x: Dual, *times: Any, **named: Any) -> Dual:
    """Copies side by side, once along dimensions that are left out."""
    given = sizes_of((*times, *named.values()))
    return repeat(context, x, *[1] * (x.stack.dim() - 1 - len(given)), *given)


@rule("diagonal")
def diagonal(context: Context, x: Dual, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Dual:
    """Of two dimensions."""
    return Dual(x.stack.diagonal(offset, on_stack(dim1, x), on_stack(dim2, x)))


def unfold(context: Context, x: Dual, dimension: int, size: int, step: int) -> Dual:
    """Windows along a dimension."""
    return Dual(x.stack.unfold(on_stack(dimension, x), size, step))


RULES[Tensor.unfold] = unfold


@rule("as_strided")
def as_strided(context: Context, x: Dual, size: Any, stride: Any, storage_offset: int | None = None) -> Dual:
    """Entries at given distances in memory, where each value of the stack has its own piece of it."""
    whole = x.stack[0].numel() == x.stack.stride(0)
    last = (storage_offset or 0) + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if not x.primal.is_contiguous() or last >= x.primal.numel() or (storage_offset and not whole):
        raise NoRuleError("distances")
    sizes, strides = (len(x.stack), *size), (x.stack.stride(0), *stride)
    return Dual(x.stack.as_strided(sizes, strides, x.stack.storage_offset() + (storage_offset or 0)))


@rule("ravel")
def ravel(context: Context, x: Dual) -> Dual:
    """All entries in one dimension."""
    stack = contiguous(context, x).stack
    return Dual(stack.reshape(len(stack), -1))


@rule("tensor_split")
def tensor_split(context: Context, x: Dual, parts: Any, dim: int = 0) -> tuple[Dual, ...]:
    """Split into a number of pieces, or at places."""
    return tuple(map(Dual, x.stack.tensor_split(parts, on_stack(dim, x))))


rule("hsplit")(lambda context, x, parts: tensor_split(context, x, parts, 1 if x.stack.dim() > 2 else 0))
rule("vsplit")(lambda context, x, parts: tensor_split(context, x, parts, 0))
rule("dsplit")(lambda context, x, parts: tensor_split(context, x, parts, 2))


def _at_least(name: str) -> None:
    """Make the rule of what gives tensors a number of dimensions or more, of size one."""
    function = getattr(torch, name)

    def of_one(x: Any) -> Any:
        if not isinstance(x, Dual):
            return function(x)
        return Dual(x.stack.reshape(len(x.stack), *function(x.primal).shape))

    def raised(context: Context, *tensors: Any) -> Any:
        one = len(tensors) == 1 and not isinstance(tensors[0], tuple | list)
        return of_one(tensors[0]) if one else tuple(map(of_one, sizes_of(tensors)))

    rule(name)(raised)


for _name in ("atleast_1d", "atleast_2d", "atleast_3d"):
    _at_least(_name)


@rule("broadcast_tensors")
def broadcast_tensors(context: Context, *tensors: Any) -> tuple[Any, ...]:
    """Several tensors in the one shape that they broadcast to."""
    shape = torch.broadcast_shapes(*(primal_of(x).shape for x in tensors))
    return tuple(expand(context, x, *shape) if isinstance(x, Dual) else x.expand(shape) for x in tensors)


@rule("view_as_complex")
def view_as_complex(context: Context, x: Dual) -> Dual:
    """Pairs of entries as complex numbers."""
    try:
        return Dual(torch.view_as_complex(x.stack))
    except RuntimeError as error:  # the stack's strides are odd
        raise NoRuleError("pairs") from error


rule("view_as_real")(lambda context, x: Dual(torch.view_as_real(x.stack)))
rule("conj")(lambda context, x: Dual(x.stack.conj()))
rule("positive")(lambda context, x: Dual(x.stack))
rule("adjoint")(mh)


for _part in ("real", "imag"):
    RULES[getattr(Tensor, _part).__get__] = lambda context, x, part=_part: Dual(getattr(x.stack, part))
    rule(_part)(RULES[getattr(Tensor, _part).__get__])
