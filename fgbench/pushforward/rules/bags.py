"""Bags of embeddings: sums and means of rows, linear in table and weights, and the largest of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of, primal_of
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
    if scale_grad_by_freq:
        raise NoRuleError("a gradient of its own")
    if mode == "max":
        return _largest(index, weight, max_norm, options)
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


def _largest(index: Tensor, weight: Dual, max_norm: float | None, options: dict[str, Any]) -> Dual:
    """Each entry is one of a row of the table, and has its tangents; those of an empty bag stand still."""
    table, offsets = weight.primal.detach(), options["offsets"]
    if index.dim() == 2:
        offsets = torch.arange(0, index.numel(), index.shape[1], device=index.device)
        index = index.reshape(-1)
    if max_norm is not None:
        torch.embedding_renorm_(table, index, max_norm, options["norm_type"])
    last, padding = options["include_last_offset"], options["padding_idx"]
    value, _, sizes, rows = torch.embedding_bag(table, index, offsets, False, 2, False, None, last, padding)
    filled = (sizes[: len(rows)] > 0).unsqueeze(1)
    rows = rows.clamp(min=0).expand(weight.count, *rows.shape)  # an empty bag's may be -1
    return dual_of(value, weight.tangents.gather(1, rows) * filled)


# Not of torch.embedding_bag, which has other arguments.
RULES[F.embedding_bag] = embedding_bag
