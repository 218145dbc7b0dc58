"""A value and its k tangents, stacked in one tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate


class Dual:
    """A value that depends on what is perturbed, with its tangents. Other values stay plain tensors.

    Attributes:
        stack: [1 + k, *shape]: the value, then its k tangents, so that one matmul serves all of them.
        spare: whether the rule that reads it may overwrite its memory, as nothing else reads it.
        mark: the record and the number by which a `Record` recognises it.
    """

    __slots__ = ("mark", "spare", "stack")

    stack: Tensor
    mark: tuple[int, int]

    def __init__(self, stack: Tensor, spare: bool = False) -> None:
        self.stack, self.spare = stack, spare

    @property
    def primal(self) -> Tensor:
        """The value itself, [*shape]."""
        return self.stack.select(0, 0)

    @property
    def tangents(self) -> Tensor:
        """The k tangents, [k, *shape]."""
        return self.stack[1:]

    @property
    def count(self) -> int:
        """k."""
        return self.stack.shape[0] - 1


class Rows(Dual):
    """A loss, kept as its slope at the model's output; its derivatives are computed when asked for.

    Attributes:
        value: the loss, [].
        moved: the output's tangents, [k, *output].
        slope: the loss's gradient with respect to the output, [*output], in the output's dtype.
    """

    __slots__ = ("moved", "slope", "value")

    def __init__(self, value: Tensor, moved: Tensor, slope: Tensor) -> None:
        if slope.dtype != moved.dtype:  # of a target that is more exact
            slope = slope.to(moved.dtype)
        self.value, self.moved, self.slope, self.spare = value, moved, slope, False

    @property
    def along(self) -> Tensor:
        """The derivatives, [k], without a temporary of the output's size."""
        return torch.mv(self.moved.reshape(len(self.moved), -1), self.slope.reshape(-1))

    @property
    def by_row(self) -> Tensor:
        """What each row of the output contributes to the derivatives, [k, rows]."""
        products = self.moved * self.slope
        return products.flatten(2).sum(2) if products.dim() > 2 else products.view(len(products), -1)

    @property
    def stack(self) -> Tensor:  # type: ignore[override]
        """The loss and its derivatives, [1 + k]."""
        return torch.cat([self.value.unsqueeze(0), self.along])

    @property
    def primal(self) -> Tensor:
        """The loss, []."""
        return self.value


def empty_dual(primal: Tensor, count: int) -> Dual:
    """Uninitialised memory for a value like `primal` and `count` tangents, laid out as `primal` is."""
    if primal.dim() == 4 and not primal.is_contiguous():
        merged = torch.empty(
            ((1 + count) * primal.shape[0], *primal.shape[1:]),
            dtype=primal.dtype,
            device=primal.device,
            memory_format=torch.channels_last
            if primal.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format,
        )
        return Dual(merged.unflatten(0, (1 + count, primal.shape[0])), spare=True)
    return Dual(primal.new_empty((1 + count, *primal.shape)), spare=True)


def dual_of(primal: Tensor, tangents: Tensor) -> Dual:
    """Stack a value [*shape] on its tangents [k, *shape]."""
    return Dual(torch.cat([primal.unsqueeze(0), tangents]), spare=True)


def moving(value: Any, count: int) -> Dual:
    """A `Dual` as it is; a plain tensor with tangents of zero."""
    if isinstance(value, Dual):
        return value
    out = empty_dual(value, count)
    out.stack[0] = value
    out.stack[1:] = 0
    return out


def primal_of(value: Any) -> Any:
    """The value without its tangents; anything else as it is."""
    return value.primal if isinstance(value, Dual) else value


def merged(dual: Dual) -> Tensor:
    """The stack as one large batch, [(1 + k)·B, …], for functions that treat samples separately."""
    return dual.stack.flatten(0, 1)


def unmerged(tensor: Tensor, like: Dual, *, spare: bool = False) -> Dual:
    """The inverse of `merged`; `like` gives k."""
    return Dual(tensor.unflatten(0, (like.stack.shape[0], -1)), spare)


def duals_in(arguments: Any) -> list[Dual]:
    """All duals in arguments, however nested, in order."""
    found: list[Dual] = []
    map_duals(found.append, arguments)
    return found


def map_duals(change: Callable[[Dual], Any], arguments: Any) -> Any:
    """The arguments, however nested, with every dual replaced by `change` of it."""
    return map_aggregate(arguments, lambda leaf: change(leaf) if isinstance(leaf, Dual) else leaf)
