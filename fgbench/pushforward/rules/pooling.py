"""Pooling: the tangents of what the value's pooling picked, or the same average of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, empty_dual, merged, unmerged
from fgbench.pushforward.rules import NoRuleError, function_rule, module_rule


@module_rule(nn.MaxPool2d)
def max_pool2d_module(context: Context, module: nn.MaxPool2d, x: Dual) -> Dual:
    """nn.MaxPool2d."""
    return max_pool2d(
        context,
        x,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        module.return_indices,
    )


@function_rule(F.max_pool2d, torch.max_pool2d)
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


def _picked(tangent: Tensor, index: Tensor) -> Tensor:
    if tangent.is_contiguous():
        return tangent.flatten(2).gather(2, index.flatten(2)).view_as(index)
    by_place = tangent.permute(0, 2, 3, 1).flatten(1, 2)  # channels last: no copy
    picked = by_place.gather(1, index.permute(0, 2, 3, 1).flatten(1, 2))
    return picked.unflatten(1, index.shape[2:]).permute(0, 3, 1, 2)


@module_rule(
    nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.ZeroPad2d, nn.PixelShuffle
)
def same_for_every_sample(context: Context, module: nn.Module, x: Dual) -> Dual:
    """A linear layer without a weight: the tangents are samples like any other."""
    return unmerged(module(merged(x)), x)


@function_rule(F.avg_pool2d)
def avg_pool2d(context: Context, x: Dual, *arguments: Any, **options: Any) -> Dual:
    """Averages over windows."""
    return unmerged(F.avg_pool2d(merged(x), *arguments, **options), x)


@function_rule(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(context: Context, x: Dual, output_size: Any) -> Dual:
    """Averages to a size."""
    return unmerged(F.adaptive_avg_pool2d(merged(x), output_size), x)
