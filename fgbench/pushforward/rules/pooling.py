"""Pooling: the tangents at the picked maxima, or their average like the value's."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of, empty_dual, merged, unmerged
from fgbench.pushforward.rules import NoRuleError, rule


@rule("max_pool2d")
def max_pool2d(
    context: Context,
    x: Dual,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Dual:
    """The tangents at the indices of the maxima; x: [B, channels, height, width]."""
    if return_indices or x.primal.dim() != 4:
        raise NoRuleError("indices or no batch")
    value, index = F.max_pool2d(
        x.primal, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True
    )
    out = empty_dual(value, x.count)
    out.stack[0] = value
    for into, tangent in zip(out.tangents, x.tangents, strict=True):
        into.copy_(_picked(tangent, index))
    return out


def _of_other_dimensions(name: str, dims: int) -> None:
    """The same of lines and volumes, and to a size that is asked for."""
    function = getattr(F, name)

    def along(context: Context, x: Dual, *given: Any, **named: Any) -> Dual:
        if x.primal.dim() != dims + 2 or named.pop("return_indices", False) or given[-1:] == (True,):
            raise NoRuleError("indices or no batch")
        value, index = function(x.primal, *given, **named, return_indices=True)
        places = index.flatten(2).expand(x.count, *index.flatten(2).shape)
        return dual_of(value, x.tangents.flatten(3).gather(3, places).unflatten(3, index.shape[2:]))

    rule(name)(along)


for _dims in (1, 2, 3):
    _of_other_dimensions(f"adaptive_max_pool{_dims}d", _dims)
_of_other_dimensions("max_pool1d", 1)
_of_other_dimensions("max_pool3d", 3)


def _picked(tangent: Tensor, index: Tensor) -> Tensor:
    if tangent.is_contiguous():
        return tangent.flatten(2).gather(2, index.flatten(2)).view_as(index)
    by_place = tangent.permute(0, 2, 3, 1).flatten(1, 2)  # a view, as channels come last in memory
    picked = by_place.gather(1, index.permute(0, 2, 3, 1).flatten(1, 2))
    return picked.unflatten(1, index.shape[2:]).permute(0, 3, 1, 2)


def _same_for_every_sample(name: str) -> None:
    """Make the rule of a linear function without a weight: tangents are treated like more samples."""
    function = getattr(F, name)

    def along(context: Context, x: Dual, *arguments: Any, **options: Any) -> Dual:
        return unmerged(function(merged(x), *arguments, **options), x)

    rule(name)(along)


for _name in [
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "pixel_shuffle",
    "pixel_unshuffle",
    "interpolate",
]:
    _same_for_every_sample(_name)
