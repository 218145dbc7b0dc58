"""Rules of losses: they give the value, and for each row of the output its derivative along each tangent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, Rows, dual_of
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
) -> Any:
    """Cross-entropy of logits [B, classes, …] with classes [B, …] or probabilities [B, classes, …].

    The derivative is ⟨slope of the loss at the logits, their tangents⟩.
    """
    if not isinstance(output, Dual) or isinstance(target, Dual) or output.primal.dim() < 2:
        raise NoRuleError("a target with tangents, or no batch")
    logits = output.primal
    if size_average is not None or reduce is not None:
        raise NoRuleError("a deprecated option for the reduction")
    if reduction == "none":  # each row's derivative is its part of the sum's
        rest = weight, None, ignore_index, None
        whole = cross_entropy(context, output, target, *rest, "sum", label_smoothing)
        value = F.cross_entropy(logits, target, *rest, "none", label_smoothing)
        return dual_of(value, (whole.moved * whole.slope).sum(2))
    log_p = torch.log_softmax(logits, 1)
    if target.is_floating_point():
        wanted = _wanted(target, weight, label_smoothing)
        value, slope = -(log_p * wanted).sum(), -wanted.to(log_p.dtype)
        if reduction == "mean":
            value, slope = (part * (log_p.shape[1] / log_p.numel()) for part in (value, slope))
        slope = aten._log_softmax_backward_data(slope, log_p, 1, logits.dtype)
        return Rows(value, output.tangents, slope)
    value, slope = _picked(log_p, target, weight, ignore_index, reduction)
    if label_smoothing:
        value, slope = _smoothed(
            log_p, value, slope, target, weight, ignore_index, reduction, label_smoothing
        )
    slope = aten._log_softmax_backward_data(slope, log_p, 1, logits.dtype)
    return Rows(value, output.tangents, slope)


def _wanted(target: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """The target's probabilities with label smoothing, times the weights of the classes."""
    wanted = target * (1 - smoothing) + smoothing / target.shape[1] if smoothing else target
    return wanted if weight is None else wanted * weight.view(-1, *[1] * (target.dim() - 2))


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
    """Smooth labels by s = `share`: 1 − s times `value` and `slope` plus s times their mean over classes."""
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


def _entry_by_entry(name: str, slope: Callable[..., Tensor]) -> None:
    """Make the rule of a loss that treats output and target, of one shape, entry by entry."""
    function = getattr(F, name)

    def along(context: Context, output: Any, target: Any, *given: Any, **named: Any) -> Dual:
        reduction = named.pop("reduction", "mean")
        if given or named.pop("size_average", None) is not None or named.pop("reduce", None) is not None:
            raise NoRuleError("positional or deprecated options")
        if not isinstance(output, Dual) or isinstance(target, Dual):
            raise NoRuleError("a target with tangents")
        z = output.primal
        named = {key: value for key, value in named.items() if value is not None}
        if "weight" in named and slope is not _binary:
            raise NoRuleError("entries of different weights")
        if z.shape != target.shape or any(isinstance(value, Dual) for value in named.values()):
            raise NoRuleError("the target broadcasts")
        value, slopes = function(z, target, reduction=reduction, **named), slope(z, target, **named)
        if reduction == "none":
            return dual_of(value, output.tangents * slopes)
        if reduction == "mean":
            slopes = slopes / slopes.numel()
        return Rows(value, output.tangents, slopes)

    rule(name)(along)


def _square(z: Tensor, y: Tensor) -> Tensor:
    return 2 * (z - y)


def _absolute(z: Tensor, y: Tensor) -> Tensor:
    return torch.sign(z - y)


def _smooth(z: Tensor, y: Tensor, beta: float = 1.0) -> Tensor:
    return ((z - y) / beta).clamp(-1, 1) if beta else torch.sign(z - y)


def _huber(z: Tensor, y: Tensor, delta: float = 1.0) -> Tensor:
    return (z - y).clamp(-delta, delta)


def _binary(z: Tensor, y: Tensor, weight: Any = 1, pos_weight: Any = 1) -> Tensor:
    """The slope of −p y log σ(z) − (1 − y) log(1 − σ(z)), where p is `pos_weight`."""
    probability = torch.sigmoid(z)
    return weight * ((1 - y) * probability - pos_weight * y * (1 - probability))


_entry_by_entry("mse_loss", _square)
_entry_by_entry("l1_loss", _absolute)
_entry_by_entry("smooth_l1_loss", _smooth)
_entry_by_entry("huber_loss", _huber)
_entry_by_entry("binary_cross_entropy_with_logits", _binary)


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
