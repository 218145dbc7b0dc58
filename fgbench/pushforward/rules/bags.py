"""Bags of embeddings: sums and means of the rows that are looked up, linear in the table and in the weights."""

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
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Dual:
    """[bags, features], as of `torch.nn.functional.embedding_bag`."""
    if mode == "max" or scale_grad_by_freq:
        raise NoRuleError("not linear, or with a gradient of its own")
    table, shares = primal_of(weight).detach(), primal_of(per_sample_weights)

    def bags(table: Tensor, shares: Tensor | None, largest: float | None = None) -> Tensor:
        more = {"include_last_offset": include_last_offset, "padding_idx": padding_idx}
        return F.embedding_bag(
            index, table, offsets, largest, norm_type, mode=mode, per_sample_weights=shares, **more
        )

    value = bags(table, shares, max_norm)
    moved = value.new_zeros(context.count, *value.shape)
    if isinstance(weight, Dual):
        moved += torch.stack([bags(own, shares) for own in weight.tangents])
    if isinstance(per_sample_weights, Dual):
        moved += torch.stack([bags(table, own) for own in per_sample_weights.tangents])
    return Dual(torch.cat([value.unsqueeze(0), moved]), spare=True)


# Not of torch.embedding_bag, which has other arguments.
RULES[F.embedding_bag] = embedding_bag
