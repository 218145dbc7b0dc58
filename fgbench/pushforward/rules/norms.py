"""Normalisations: the Jacobian of (x − mean) / deviation is symmetric, so that reverse mode's fused
kernel for it carries tangents as well.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, empty_dual
from fgbench.pushforward.rules import module_rule

aten = torch.ops.aten


@module_rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def batch_norm(context: Context, module: nn.BatchNorm2d, x: Any) -> Dual:
    """[B, channels, …]; statistics of the batch in training, the running ones in evaluation."""
    primal = x.primal if isinstance(x, Dual) else x
    batch_statistics = module.training or module.running_mean is None
    mean, var = _running(context, module)
    value, saved_mean, saved_scale = aten.native_batch_norm(
        primal,
        module.weight,
        module.bias,
        mean,
        var,
        batch_statistics,
        _momentum(context, module),
        module.eps,
    )
    if not batch_statistics:
        assert module.running_var is not None
        saved_mean, saved_scale = module.running_mean, (module.running_var + module.eps).rsqrt()
    out = empty_dual(value, context.count)
    out.stack[0] = value
    for index, into in enumerate(out.tangents):
        if not isinstance(x, Dual):
            into.zero_()
            continue
        moved, _, _ = aten.native_batch_norm_backward(
            x.tangents[index],
            primal,
            module.weight,
            module.running_mean,
            module.running_var,
            saved_mean,
            saved_scale,
            batch_statistics,
            module.eps,
            [True, False, False],
        )
        into.copy_(moved)
    _add_affine(context, module, out.tangents, primal, saved_mean, saved_scale)
    return out


def _running(context: Context, module: nn.BatchNorm2d) -> tuple[Tensor | None, Tensor | None]:
    """The statistics that this pass may move: the module's own, in the step's first pass."""
    mean, var = module.running_mean, module.running_var
    if not module.training or mean is None or context.first:
        return mean, var
    return None, None


def _momentum(context: Context, module: nn.BatchNorm2d) -> float:
    """nn.BatchNorm's own, which counts its batches."""
    if not module.training or module.num_batches_tracked is None:
        return module.momentum or 0.0
    if context.first:
        module.num_batches_tracked.add_(1)
    if module.momentum is not None:
        return module.momentum
    return 1.0 / float(module.num_batches_tracked)  # a cumulative average: nn.BatchNorm waits here too


def _add_affine(
    context: Context, module: nn.BatchNorm2d, tangents: Tensor, x: Tensor, mean: Tensor, scale: Tensor
) -> None:
    """tangents += γ̇ (x − mean) · scale + β̇, in place."""
    weight, bias = context.tangent(module.weight), context.tangent(module.bias)
    by_channel = (-1, 1, x.shape[1], *[1] * (x.dim() - 2))
    if weight is not None:
        slope = weight.full() * scale
        tangents.addcmul_(x, slope.view(by_channel)).sub_((slope * mean).view(by_channel))
    if bias is not None:
        tangents.add_(bias.full().view(by_channel))


@module_rule(nn.LayerNorm)
def layer_norm(context: Context, module: nn.LayerNorm, x: Any) -> Dual:
    """Over the last dimensions, sample by sample."""
    primal = x.primal if isinstance(x, Dual) else x
    shape = list(module.normalized_shape)
    normal, mean, scale = aten.native_layer_norm(primal, shape, None, None, module.eps)
    out = empty_dual(normal, context.count)
    if isinstance(x, Dual):
        for into, tangent in zip(out.tangents, x.tangents, strict=True):
            moved, _, _ = aten.native_layer_norm_backward(
                tangent, primal, shape, mean, scale, None, None, [True, False, False]
            )
            torch.mul(moved, 1 if module.weight is None else module.weight, out=into)
    else:
        out.tangents.zero_()
    out.stack[0] = F.layer_norm(primal, shape, module.weight, module.bias, module.eps)
    weight, bias = context.tangent(module.weight), context.tangent(module.bias)
    over_samples = (-1, *[1] * (primal.dim() - len(shape)), *shape)
    if weight is not None:
        out.tangents.addcmul_(normal, weight.full().view(over_samples))
    if bias is not None:
        out.tangents.add_(bias.full().view(over_samples))
    return out
