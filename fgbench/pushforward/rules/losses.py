"""Losses: the value, and its derivative along each tangent, for each row of the output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, Rows
from fgbench.pushforward.rules import NoRuleError, rule

aten = torch.ops.aten


@rule("cross_entropy")
def cross_entropy(
    context: Context,
    output: Dual,
    target: Any,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Dual:
    """For logits [B, classes, …] and classes [B, …]: ⟨gradient at the logits, their tangents⟩."""
    if isinstance(target, Dual) or target.is_floating_point() or target.dim() == 0 or reduction == "none":
        raise NoRuleError("not classes")
    if size_average is not None or reduce is not None:
        raise NoRuleError("deprecated arguments for the reduction")
    logits = output.primal
    log_p = torch.log_softmax(logits, 1)
    value, slope = _picked(log_p, target, weight, ignore_index, reduction)
    if label_smoothing:
        value, slope = _smoothed(
            log_p, value, slope, target, weight, ignore_index, reduction, label_smoothing
        )
    slope = aten._log_softmax_backward_data(slope, log_p, 1, logits.dtype)
    return Rows(value, output.tangents, slope)


def _picked(
    log_p: Tensor, target: Tensor, weight: Any, ignored: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """The mean or sum of −log p of the targets, and its gradient with respect to log p."""
    how = {"mean": 1, "sum": 2}[reduction]
    two = log_p.dim() == 2
    forward = aten.nll_loss_forward if two else aten.nll_loss2d_forward
    backward = aten.nll_loss_backward if two else aten.nll_loss2d_backward
    planes = log_p
    if log_p.dim() not in (2, 4):
        planes = log_p.flatten(2).unsqueeze(2)
        target = target.flatten(1).unsqueeze(1)
    value, total = forward(planes, target, weight, how, ignored)
    slope = backward(torch.ones_like(value), planes, target, weight, how, ignored, total)
    return value, slope.view_as(log_p)


def _smoothed(
    log_p: Tensor,
    value: Tensor,
    slope: Tensor,
    target: Tensor,
    weight: Any,
    ignored: int,
    reduction: str,
    share: float,
) -> tuple[Tensor, Tensor]:
    """Label smoothing: 1 − s of `value` and `slope`, and s of their mean over all classes; s is `share`."""
    kept = (target != ignored).unsqueeze(1)
    classes = log_p.shape[1]
    spread = log_p.new_ones(classes) if weight is None else weight
    spread = spread.view(-1, *[1] * (log_p.dim() - 2))
    total: Any = 1
    if reduction == "mean":
        at_target = torch.ones_like(log_p[:, 0]) if weight is None else weight[target.where(kept[:, 0], 0)]
        total = (at_target * kept[:, 0]).sum()
    even = torch.where(kept, -spread / total, 0) * (share / classes)
    even = even.expand_as(log_p)
    return value * (1 - share) + (even * log_p).sum(), slope * (1 - share) + even


@rule("mse_loss")
def mean_squared_error(
    context: Context,
    output: Any,
    target: Any,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Dual:
    """Mean squared error; its derivatives are the mean of 2 (z − y) ż over all entries."""
    if not isinstance(output, Dual) or isinstance(target, Dual) or weight is not None:
        raise NoRuleError("a target that moves")
    if output.primal.shape != target.shape or reduction != "mean" or (size_average, reduce) != (None, None):
        raise NoRuleError("the target broadcasts")
    off = output.primal - target
    return Rows(off.square().mean(), output.tangents, off * (2 / off.numel()))


@rule("nll_loss")
def negative_log_likelihood(
    context: Context,
    output: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Dual:
    """The mean or sum of −log p of the targets."""
    if not isinstance(output, Dual) or reduction == "none" or (size_average, reduce) != (None, None):
        raise NoRuleError("row by row")
    if output.primal.dim() < 2:
        raise NoRuleError("no batch")
    value, slope = _picked(output.primal, target, weight, ignore_index, reduction)
    return Rows(value, output.tangents, slope)
