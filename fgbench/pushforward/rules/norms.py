"""Normalisations: the Jacobian of (x − mean) / deviation is symmetric, so that reverse mode's fused
kernel for it carries tangents as well.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of, empty_dual, moving, primal_of
from fgbench.pushforward.rules import NoRuleError, rule
from fgbench.pushforward.rules.linear import begin

aten = torch.ops.aten


@rule("batch_norm", raw=True)
def batch_norm(
    context: Context,
    x: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Dual:
    """[B, channels, …]; statistics of the batch in training, the running ones in evaluation."""
    _no_duals(weight, bias)
    x = context.dual(x)
    primal = primal_of(x)
    if training and not context.first:  # the step's first pass has updated the running statistics
        running_mean = running_var = None
    value, mean, scale = aten.native_batch_norm(
        primal, weight, bias, running_mean, running_var, training, momentum, eps
    )
    if not training:
        assert running_mean is not None
        assert running_var is not None
        mean, scale = running_mean, (running_var + eps).rsqrt()
    out = empty_dual(value, context.count)
    out.stack[0] = value
    kept = running_mean, running_var, mean, scale, training, eps, [True, False, False]
    for index, into in enumerate(out.tangents):
        if isinstance(x, Dual):
            into.copy_(aten.native_batch_norm_backward(x.stack[1 + index], primal, weight, *kept)[0])
        else:
            into.zero_()
    slope, shift = context.tangent(weight), context.tangent(bias)
    by_channel = (-1, 1, primal.shape[1], *[1] * (primal.dim() - 2))
    if slope is not None:
        along = slope.full() * scale
        out.tangents.addcmul_(primal, along.view(by_channel)).sub_((along * mean).view(by_channel))
    if shift is not None:
        out.tangents.add_(shift.full().view(by_channel))
    return out


@rule("layer_norm", raw=True)
def layer_norm(
    context: Context,
    x: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
    **options: Any,
) -> Dual:
    """Layer norm: over the last dimensions, for each sample by itself."""
    _no_duals(weight, bias)
    x, shape = context.dual(x), list(normalized_shape)
    primal = primal_of(x)
    slope, shift = context.tangent(weight), context.tangent(bias)
    normal, mean, scale = aten.native_layer_norm(primal, shape, None, None, eps)
    out = empty_dual(normal, context.count)
    tangents = out.tangents
    over_samples = (-1, *[1] * (primal.dim() - len(shape)), *shape)
    begun = begin(
        tangents,
        None if slope is None else (normal, slope.full().view(over_samples)),
        None if shift is None else shift.full().view(over_samples),
    )
    if isinstance(x, Dual):
        for into, tangent in zip(tangents, x.tangents, strict=True):
            moved = aten.native_layer_norm_backward(
                tangent, primal, shape, mean, scale, None, None, [True, False, False]
            )[0]
            if not begun:
                torch.mul(moved, 1 if weight is None else weight, out=into)
            elif weight is None:
                into.add_(moved)
            else:
                into.addcmul_(moved, weight)
    elif not begun:
        tangents.zero_()
    if weight is None:
        out.stack[0] = normal if bias is None else normal + bias
    elif bias is None:
        torch.mul(normal, weight, out=out.stack[0])
    else:
        torch.addcmul(bias, normal, weight, out=out.stack[0])
    return out


@rule("group_norm", raw=True)
def group_norm(
    context: Context,
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Dual:
    """A layer norm of each group of channels, then the channels' own weights and biases."""
    _no_duals(weight, bias)
    x = context.dual(x)
    primal = primal_of(x)
    grouped = primal.shape[0], num_groups, primal[0].numel() // num_groups
    if isinstance(x, Dual):
        stack = x.stack.reshape(len(x.stack), *grouped)
        out = Dual(layer_norm(context, Dual(stack), grouped[2:], eps=eps).stack.view(x.stack.shape), True)
    else:
        normal = F.layer_norm(primal.reshape(grouped), grouped[2:], eps=eps).view(primal.shape)
        out = moving(normal, context.count)
    return _scaled(context, out, weight, bias)


@rule("instance_norm", raw=True)
def instance_norm(
    context: Context,
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Dual:
    """A batch norm whose channels are those of every sample, then the channels' own weights and biases."""
    _no_duals(weight, bias)
    x = context.dual(x)
    primal = primal_of(x)
    kept = [] if running_mean is None else [running_mean, running_var]
    own = [statistic.repeat(len(primal)) for statistic in kept]
    stack = x.stack if isinstance(x, Dual) else primal.unsqueeze(0)
    merged = stack.reshape(len(stack), 1, -1, *primal.shape[2:])
    moves = Dual(merged) if isinstance(x, Dual) else merged[0]
    mean, variance = own or (None, None)
    out = batch_norm(context, moves, mean, variance, None, None, use_input_stats, momentum, eps)
    for statistic, found in zip(kept, own, strict=True) if use_input_stats and context.first else ():
        statistic.copy_(found.view(len(primal), -1).mean(0))
    return _scaled(context, Dual(out.stack.view(len(out.stack), *primal.shape)), weight, bias)


def _scaled(context: Context, normal: Dual, weight: Any, bias: Any) -> Dual:
    """n w + b of each channel, and ṅ w + n ẇ + ḃ, in the memory of n and ṅ."""
    by_channel = (-1, *[1] * (normal.primal.dim() - 2))
    slope, shift = context.tangent(weight), context.tangent(bias)
    if weight is not None:
        normal.tangents.mul_(weight.view(by_channel))
    if slope is not None:
        along = slope.full().view(slope.count, 1, *weight.view(by_channel).shape)
        normal.tangents.addcmul_(normal.primal, along)
    if weight is not None:
        normal.primal.mul_(weight.view(by_channel))
    if bias is not None:
        normal.primal.add_(bias.view(by_channel))
    if shift is not None:
        normal.tangents.add_(shift.full().view(shift.count, 1, *bias.view(by_channel).shape))
    return normal


@rule("rms_norm", raw=True)
def rms_norm(context: Context, x: Any, normalized_shape: Any, weight: Any = None, eps: Any = None) -> Dual:
    """x / √(mean x² + ε) · weight."""
    _no_duals(weight)
    x, dims = context.dual(x), [-1 - i for i in range(len(normalized_shape))]
    primal = primal_of(x)
    if eps is None:  # PyTorch computes narrower numbers as float32
        eps = torch.finfo(torch.promote_types(primal.dtype, torch.float32)).eps
    scale = (primal.square().mean(dims, keepdim=True) + eps).rsqrt()
    normal = primal * scale
    value = normal if weight is None else normal * weight
    tangents = normal.new_zeros(context.count, *normal.shape)
    if isinstance(x, Dual):
        along = (x.tangents * normal).mean(dims, keepdim=True)
        tangents = (x.tangents - normal * along) * scale * (1 if weight is None else weight)
    slope = context.tangent(weight)
    if slope is not None:
        tangents.addcmul_(normal, slope.full().view(-1, *[1] * (normal.dim() - len(dims)), *normalized_shape))
    return dual_of(value, tangents)


def _no_duals(*tensors: Any) -> None:
    if any(isinstance(t, Dual) for t in tensors):
        raise NoRuleError("a weight that is itself computed")
