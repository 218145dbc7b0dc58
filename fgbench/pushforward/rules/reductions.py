"""Reductions along dimensions: extremes, norms and moments; and sorting, which picks entries as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of
from fgbench.pushforward.rules import NoRuleError, rule
from fgbench.pushforward.rules.activations import real
from fgbench.pushforward.rules.arithmetic import larger


def _extreme(name: str) -> None:
    """Make the rules of max or min: over all entries, along a dimension (with indices), or of two tensors."""
    function, of_all = getattr(torch, name), getattr(torch, f"a{name}")

    def along(context: Context, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, Tensor | Dual):
            return larger(x, dim, 1 if name == "max" else -1)
        if dim is None:
            return _shared(x, of_all(x.primal, keepdim=True), None, False)
        found = function(x.primal, dim, True)
        picked, places = _picked(x, found, dim), found.indices
        if not keepdim:
            picked, places = Dual(picked.stack.squeeze(_on(dim, x))), places.squeeze(dim)
        return type(found)((picked, places))

    rule(name)(along)

    def whole(context: Context, x: Dual, dim: Any = (), keepdim: bool = False) -> Dual:
        dims = (dim,) if isinstance(dim, int) else tuple(dim)
        return _shared(x, of_all(x.primal, dims, True), dims or None, keepdim)

    rule(f"a{name}")(whole)


def _shared(x: Dual, value: Tensor, dims: Any, keepdim: bool) -> Dual:
    """The extreme's tangent is the mean of the tangents of all entries that are equal to it."""
    share = (x.primal == value).to(value.dtype)
    dims = tuple(range(x.primal.dim())) if dims is None else dims
    share /= share.sum(dims, keepdim=True) if dims else 1
    return _reduced(x, value, _summed(x.tangents * share, dims, x), dims, keepdim)


_extreme("max")
_extreme("min")


def _picks(name: str) -> None:
    """Make the rule of a function that gives the entries it picks along a dimension with their indices."""
    function = getattr(torch, name)

    def along(context: Context, x: Dual, *given: Any, **named: Any) -> Any:
        found = function(x.primal, *given, **named)
        place = {"sort": 0, "topk": 1}[name]
        dim = named.get("dim", given[place] if len(given) > place else -1)
        if "stable" in named:
            raise NoRuleError("another order of its arguments")
        return type(found)((_picked(x, found, dim), found.indices))

    rule(name)(along)


_picks("sort")
_picks("topk")


def _picked(x: Dual, found: Any, dim: int) -> Dual:
    if x.stack.dim() == 1:
        raise NoRuleError("a single number")
    index = found.indices.expand(x.count, *found.indices.shape)
    return dual_of(found.values, x.tangents.gather(_on(dim, x), index))


@rule("logsumexp")
def logsumexp(context: Context, x: Dual, dim: Any, keepdim: bool = False) -> Dual:
    """The tangent is ⟨softmax(x), ẋ⟩."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    value = torch.logsumexp(x.primal, dims, True)
    weights = torch.exp(x.primal - value)
    return _reduced(x, value, _summed(x.tangents * weights, dims, x), dims, keepdim)


@rule("vector_norm")
def vector_norm(
    context: Context, x: Dual, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Dual:
    """The Euclidean norm; its tangent is ⟨x, ẋ⟩ / ‖x‖, and 0 where x is 0."""
    if ord != 2 or dtype is not None or x.stack.is_complex():
        raise NoRuleError("another norm")
    dims = tuple(range(x.primal.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    value = torch.linalg.vector_norm(x.primal, 2, dims, True)
    direction = (x.primal / value).masked_fill_(value == 0, 0)
    return _reduced(x, value, _summed(x.tangents * direction, dims, x), dims, keepdim)


def _moments(name: str) -> None:
    """Make the rule of var or std, or of one that also gives the mean if the name says so."""
    root, mean_too = name.startswith("std"), name.endswith("_mean")

    def along(
        context: Context,
        x: Dual,
        dim: Any = None,
        unbiased: bool = True,
        keepdim: bool = False,
        *,
        correction: Any = None,
    ) -> Any:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        dims = tuple(range(x.primal.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
        correction = int(unbiased) if correction is None else correction
        value, mean = torch.var_mean(real(x.primal), dims, correction=correction, keepdim=True)
        count = x.primal.numel() // max(value.numel(), 1) - correction
        moved = _summed(x.tangents * ((x.primal - mean) * (2 / count)), dims, x)
        if root:
            value = value.sqrt()
            moved = (moved / (2 * value)).masked_fill_(value == 0, 0)
        out = _reduced(x, value, moved, dims, keepdim)
        if not mean_too:
            return out
        return out, _reduced(x, mean, x.tangents.mean(_all_on(dims, x), keepdim=True), dims, keepdim)

    rule(name)(along)


for _name in ("var", "std", "var_mean", "std_mean"):
    _moments(_name)


def _reduced(x: Dual, value: Tensor, moved: Tensor, dims: Any, keepdim: bool) -> Dual:
    """Stack a value and tangents whose reduced dimensions were kept; drop these unless `keepdim`."""
    out = dual_of(value, moved)
    return out if keepdim or not x.primal.dim() else Dual(out.stack.squeeze(_all_on(dims, x)))


def _summed(products: Tensor, dims: Any, x: Dual) -> Tensor:
    """Sum over these dimensions of the value and keep them; a scalar has none."""
    return products.sum(_all_on(dims, x), keepdim=True) if x.primal.dim() else products


def _on(dim: int, x: Dual) -> int:
    return dim % max(x.primal.dim(), 1) + 1


def _all_on(dims: Any, x: Dual) -> tuple[int, ...]:
    return tuple(_on(dim, x) for dim in dims)
