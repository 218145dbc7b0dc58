"""Attention, computed by its definition, as flash kernels have no forward mode (pytorch #128971)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of, primal_of
from fgbench.pushforward.rules import NoRuleError, rule
from fgbench.pushforward.rules.arithmetic import matmul
from fgbench.pushforward.rules.dropout import dropout


@rule("scaled_dot_product_attention")
def attention(
    context: Context,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Dual:
    """softmax(q kᵀ · scale + mask) v; q, k, v: […, length, features], with or without tangents."""
    if isinstance(attn_mask, Dual):
        raise NoRuleError("a mask that moves")
    if enable_gqa:
        key, value = (_for_each_head(x, primal_of(query).shape[-3]) for x in (key, value))
    q, k = primal_of(query), primal_of(key)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    mask = _causal(q, k) if is_causal else attn_mask
    weights = torch.softmax(_masked((q * scale) @ k.transpose(-2, -1), mask), -1)
    moved = _scores(query, key, scale, context.count)
    if moved is not None and not dropout_p:
        return _attended(weights, moved, value, context.count)
    both: Any = weights
    if moved is not None:
        moved.mul_(weights)
        both = dual_of(weights, moved.addcmul_(weights, moved.sum(-1, keepdim=True), value=-1))
    if dropout_p:
        still = both if isinstance(both, Dual) else Dual(both.unsqueeze(0))
        dropped = dropout(context, still, dropout_p)
        both = dropped if isinstance(both, Dual) else dropped.stack[0]
    return matmul(context, both, value)


def _attended(weights: Tensor, moved: Tensor, value: Any, count: int) -> Dual:
    """P v, and its tangents Ṗ v + P v̇ with Ṗ = P∘Ṡ − P·rowsum(P∘Ṡ).

    Args:
        weights: P, [..., length, length].
        moved: Ṡ, the tangents of the scores, [k, …, length, length]; overwritten.
        value: v.
        count: k.
    """
    v = primal_of(value)
    moved.mul_(weights)
    out = weights @ v
    tangents = moved @ v
    tangents.addcmul_(moved.sum(-1, keepdim=True), out, value=-1)
    if isinstance(value, Dual):
        tangents += _weighted(weights, value.tangents)
    return dual_of(out, tangents)


def _weighted(weights: Tensor, tangents: Tensor) -> Tensor:
    """P v̇ for k tangents in one product, so that P, the largest tensor here, is not copied k times."""
    if len(tangents) == 1:
        return (weights @ tangents[0]).unsqueeze(0)
    together = weights @ tangents.movedim(0, -2).flatten(-2)
    return together.unflatten(-1, (len(tangents), -1)).movedim(-2, 0)


def _scores(query: Any, key: Any, scale: float, count: int) -> Tensor | None:
    """(q̇ kᵀ + q k̇ᵀ) · scale, [k, …, length, length]; None where neither has tangents."""
    moved = None
    if isinstance(query, Dual):
        moved = (query.tangents * scale) @ primal_of(key).transpose(-2, -1)
    if isinstance(key, Dual):
        along = (primal_of(query) * scale) @ key.tangents.transpose(-2, -1)
        moved = along if moved is None else moved.add_(along)
    return moved


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def _causal(query: Tensor, key: Tensor) -> Tensor:
    """The causal mask, [length, length]: True where a query may see a key."""
    return torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()


def _for_each_head(x: Any, heads: int) -> Any:
    """Repeat keys or values of fewer heads, so that every head of the queries has its own."""
    stack = x.stack if isinstance(x, Dual) else x
    repeated = stack.repeat_interleave(heads // stack.shape[-3], -3)
    return Dual(repeated) if isinstance(x, Dual) else repeated
