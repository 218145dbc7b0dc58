"""Bags of embeddings: sums and means of looked-up rows, linear in the table and in the weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, primal_of
from fgbench.pushforward.rules import RULES, NoRuleError


def embedding_bag(
    context: Context,
    index: Tensor,
    weight: Any,
    *,
    mode: str = "mean",
    scale_grad_by_freq: bool = False,
    max_norm: float | None = None,
    per_sample_weights: Any = None,
    **options: Any,
) -> Dual:
    """[bags, features]; torch gives all but the first two arguments by name."""
    if mode == "max" or scale_grad_by_freq:
        raise NoRuleError("not linear, or with a gradient of its own")
    table, shares = primal_of(weight).detach(), primal_of(per_sample_weights)
    options = {**options, "mode": mode, "sparse": False}

    def bags(table: Tensor, shares: Tensor | None, largest: float | None = None) -> Tensor:
        return F.embedding_bag(index, table, max_norm=largest, per_sample_weights=shares, **options)

    value = bags(table, shares, max_norm)
    moved = value.new_zeros(context.count, *value.shape)
    if isinstance(weight, Dual):
        moved += torch.stack([bags(own, shares) for own in weight.tangents])
    if isinstance(per_sample_weights, Dual):
        moved += torch.stack([bags(table, own) for own in per_sample_weights.tangents])
    return Dual(torch.cat([value.unsqueeze(0), moved]), spare=True)


# Not of torch.embedding_bag, which has other arguments.
RULES[F.embedding_bag] = embedding_bag
