"""Attention, computed by its definition, as flash kernels have no forward mode (pytorch #128971)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of, primal_of
from fgbench.pushforward.rules import NoRuleError, rule
from fgbench.pushforward.rules.arithmetic import matmul
from fgbench.pushforward.rules.dropout import dropout

# Causal attention runs in blocks of queries, each without the keys that none of its queries may see.
FEWEST_QUERIES, MOST_BLOCKS = 64, 4


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
    scale = 1 / math.sqrt(primal_of(query).shape[-1]) if scale is None else scale
    scaled = _over(lambda x: x.contiguous() * scale, query)
    key, value = (_over(Tensor.contiguous, x) for x in (key, value))
    if dropout_p:
        mask = _causal(scaled, key) if is_causal else attn_mask
        return _dropped(context, scaled, key, value, mask, dropout_p)
    out = _room(context, query, key, value)
    if not is_causal:
        _attend(out.stack, scaled, key, value, attn_mask)
        return out
    mask = _causal(scaled, key)
    length, keys = mask.shape
    size = max(FEWEST_QUERIES, -(-length // MOST_BLOCKS))
    for start in range(0, length, size):
        stop = min(start + size, length)
        _attend(
            out.stack[..., start:stop, :],
            _rows(scaled, start, stop),
            _rows(key, 0, stop),
            _rows(value, 0, stop),
            mask[start:stop, : min(stop, keys)],
        )
    return out


def _room(context: Context, query: Any, key: Any, value: Any) -> Dual:
    """Uninitialised memory for the output, laid out as the queries are."""
    q, k, v = (primal_of(x).shape for x in (query, key, value))
    shape = (1 + context.count, *torch.broadcast_shapes(q[:-2], k[:-2], v[:-2]), q[-2], v[-1])
    if isinstance(query, Dual) and query.stack.shape == shape:
        return Dual(torch.empty_like(query.stack), spare=True)
    return Dual(primal_of(query).new_empty(shape), spare=True)


def _attend(out: Tensor, query: Any, key: Any, value: Any, mask: Tensor | None) -> None:
    """Write P v and its tangents Ṗ v + P v̇ into `out`, with Ṗ = P∘Ṡ − P·rowsum(P∘Ṡ).

    Args:
        out: [1 + k, …, queries, features].
        query, key, value: q · scale, k and v; at least one of them has tangents.
        mask: what a query may see, or what is added to its scores, […, queries, keys].
    """
    weights, moved = _weights(query, key, mask)
    v = primal_of(value)
    out[0] = attended = weights @ v
    tangents = out[1:]
    tangents[:] = _weighted(weights, value.tangents) if isinstance(value, Dual) else 0
    if moved is not None:
        tangents += moved.mul_(weights) @ v
        tangents.addcmul_(moved.sum(-1, keepdim=True), attended, value=-1)


def _weights(query: Any, key: Any, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """P, […, queries, keys], and the scores' tangents Ṡ, [k, …, queries, keys]; None if they have none."""
    q, k = primal_of(query), primal_of(key)
    moved = None
    if isinstance(query, Dual):
        moved = query.tangents @ k.transpose(-2, -1)
    if isinstance(key, Dual):
        along = q @ key.tangents.transpose(-2, -1)
        moved = along if moved is None else moved.add_(along)
    return torch.softmax(_masked(q @ k.transpose(-2, -1), mask), -1), moved


def _dropped(context: Context, query: Any, key: Any, value: Any, mask: Tensor | None, share: float) -> Dual:
    """The output where a share of the weights is left out."""
    weights, moved = _weights(query, key, mask)
    if moved is None:
        both = Dual(weights.unsqueeze(0))
    else:
        moved.mul_(weights)
        both = dual_of(weights, moved.addcmul_(weights, moved.sum(-1, keepdim=True), value=-1))
    kept = dropout(context, both, share)
    return matmul(context, kept if moved is not None else kept.stack[0], value)


def _weighted(weights: Tensor, tangents: Tensor) -> Tensor:
    """P v̇ for k tangents in one product, so that P, the largest tensor here, is not copied k times."""
    together = weights @ tangents.movedim(0, -2).flatten(-2)
    return together.unflatten(-1, (len(tangents), -1)).movedim(-2, 0)


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    return scores.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


def _causal(query: Any, key: Any) -> Tensor:
    """The causal mask, [length, length]: True where a query may see a key."""
    q, k = primal_of(query), primal_of(key)
    return torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()


def _for_each_head(x: Any, heads: int) -> Any:
    """Repeat keys or values of fewer heads, so that every head of the queries has its own."""
    return _over(lambda s: s.repeat_interleave(heads // s.shape[-3], -3), x)


def _rows(x: Any, start: int, stop: int) -> Any:
    return _over(lambda s: s[..., start:stop, :], x)


def _over(change: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Apply `change` to a tensor, or to the stack of one with tangents."""
    return Dual(change(x.stack)) if isinstance(x, Dual) else change(x)
