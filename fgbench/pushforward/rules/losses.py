"""Losses: their value, and the derivative of it along each tangent, sample by sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fgbench.pushforward.dual import Dual
from fgbench.pushforward.rules import NoRuleError, loss_rule

IGNORED = -100  # cross-entropy's default


@loss_rule(F.cross_entropy, nn.CrossEntropyLoss)
def cross_entropy(output: Dual, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, classes] and classes [B]: Σ_c p_c ż_c − ż_target, over the samples not ignored."""
    if output.primal.dim() != 2 or target.dim() != 1 or target.is_floating_point():
        raise NoRuleError("not classes")
    log_p = torch.log_softmax(output.primal, 1)
    kept = target != IGNORED
    index = torch.where(kept, target, 0).unsqueeze(1)
    weight = kept.to(log_p.dtype) / kept.sum()
    at_target = output.tangents.gather(2, index.expand(output.count, -1, -1)).squeeze(2)
    mean = (output.tangents * log_p.exp()).sum(2)
    value = torch.where(kept, -log_p.gather(1, index).squeeze(1), 0).sum() / kept.sum()
    return value, (mean - at_target) * weight


@loss_rule(F.mse_loss, nn.MSELoss)
def mean_squared_error(output: Dual, target: Tensor) -> tuple[Tensor, Tensor]:
    """2 ⟨z − y, ż⟩ over all entries."""
    if output.primal.shape != target.shape:
        raise NoRuleError("the target broadcasts")
    off = output.primal - target
    by_sample = (output.tangents * off).flatten(2).sum(2) if off.dim() > 1 else output.tangents * off
    return off.square().mean(), by_sample * (2 / off.numel())
