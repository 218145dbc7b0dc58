"""Attention, computed by its definition, as flash kernels have no forward mode (pytorch #128971)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, moving, primal_of
from fgbench.pushforward.rules import rule
from fgbench.pushforward.rules.activations import softmax
from fgbench.pushforward.rules.arithmetic import add, matmul, mul
from fgbench.pushforward.rules.dropout import dropout
from fgbench.pushforward.rules.indexing import masked_fill

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
    if enable_gqa:
        key, value = (_for_each_head(x, primal_of(query).shape[-3]) for x in (key, value))
    scale = 1 / math.sqrt(primal_of(query).shape[-1]) if scale is None else scale
    if isinstance(attn_mask, Dual):
        return _biased(context, query, key, value, attn_mask, dropout_p, scale)
    lead = torch.broadcast_shapes(*(primal_of(x).shape[:-2] for x in (query, key, value)))
    mask = _causal(query, key) if is_causal else attn_mask
    q, k, v = _stack(query, lead), _matrices(key, lead).transpose(-2, -1), _matrices(value, lead)
    if dropout_p:
        weights = _weights(_product(_rows(q), k, scale), lead, mask, is_causal)
        return _dropped(context, weights, lead, value, dropout_p)
    out = _room(context, query, (*lead, q.shape[-2], v.shape[-1]))
    for start, stop, keys in _blocks(q.shape[-2], k.shape[-1], is_causal):
        seen = mask[start:stop, :keys] if is_causal else mask
        scores = _product(_rows(q[..., start:stop, :]), k[..., :keys], scale)
        weights = _weights(scores, lead, seen, is_causal)
        mixed = _attended(weights, v[:, :, :keys])
        out.stack[..., start:stop, :] = mixed.view(*lead, *mixed.shape[1:]).movedim(-3, 0)
    return out


def _biased(
    context: Context, query: Any, key: Any, value: Any, bias: Dual, dropped: float, scale: float
) -> Any:
    """Attention with a mask that moves, as a learned bias by relative position does."""
    hidden = bias.primal == -math.inf
    turned = _over(lambda s: s.transpose(-2, -1), key)
    scores = mul(context, matmul(context, moving(query, context.count), turned), scale)
    weights = masked_fill(context, softmax(context, add(context, scores, bias), -1), hidden, 0)
    return matmul(context, dropout(context, weights, dropped), value)


def _blocks(length: int, keys: int, is_causal: bool) -> Iterator[tuple[int, int, int]]:
    """The blocks of queries, from `start` to `stop`, each with how many keys its queries may see."""
    size = max(FEWEST_QUERIES, -(-length // MOST_BLOCKS)) if is_causal else length
    for start in range(0, length, size):
        stop = min(start + size, length)
        yield start, stop, min(stop, keys) if is_causal else keys


def _stack(x: Any, lead: torch.Size) -> Tensor:
    """A value and its tangents, [m, *lead, length, features]; m is 1 + k, or 1 if nothing moves it."""
    stack = x.stack if isinstance(x, Dual) else x.unsqueeze(0)
    missing = len(lead) + 3 - stack.dim()
    return stack.reshape(len(stack), *[1] * missing, *stack.shape[1:]).expand(-1, *lead, -1, -1)


def _rows(stack: Tensor) -> Tensor:
    """The stack by heads, those of all samples, so that one product serves all m: [heads, m, n, features]."""
    m, *lead, n, features = stack.shape
    return stack.movedim(0, -3).reshape(math.prod(lead), m, n, features).contiguous()


def _matrices(x: Any, lead: torch.Size) -> Tensor:
    """A value and its tangents as matrices, [m, heads, length, features]."""
    stack = _stack(x, lead)
    return stack.reshape(len(stack), lead.numel(), *stack.shape[-2:])


def _room(context: Context, query: Any, shape: tuple[int, ...]) -> Dual:
    """Uninitialised memory for an output of this shape, laid out as the queries are."""
    if isinstance(query, Dual) and query.stack.shape[1:] == shape:
        return Dual(torch.empty_like(query.stack), spare=True)
    return Dual(primal_of(query).new_empty((1 + context.count, *shape)), spare=True)


def _product(a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
    """scale · a b and its tangents scale · (ȧ b + a ḃ), for each head.

    Args:
        a: rows, [heads, m, n, d].
        b: matrices, [m, heads, d, c]; one of the two may have no tangents, and then an m of 1.
        scale: a factor of the product.

    Returns:
        Rows, [heads, m, n, c], with the larger m.
    """
    heads, own, n, d = a.shape
    m = max(own, len(b))
    out = a.new_empty(heads, m, n, b.shape[-1])
    # As many of a's rows as there are, and then what b's tangents add to them.
    first = out.flatten(1, 2) if own == m else out[:, 0]
    first.baddbmm_(a.view(heads, -1, d), b[0], beta=0, alpha=scale)
    for i in range(1, len(b)):
        out[:, i].baddbmm_(a[:, 0], b[i], beta=int(own > 1), alpha=scale)
    return out


def _weights(scores: Tensor, lead: torch.Size, mask: Tensor | None, is_causal: bool) -> Tensor:
    """The softmax P of scores S, and P∘Ṡ for each of their tangents Ṡ, in their place: [heads, m, n, keys].

    The tangents of P are P∘Ṡ − P · rowsum(P∘Ṡ). As in torch, a query that may see no key attends to nothing.
    """
    own = scores[:, 0]
    shown = own.view(*lead, *own.shape[1:])
    if mask is None:
        found = torch.softmax(shown, -1)
    else:
        boolean = mask.dtype == torch.bool
        hidden = ~mask if boolean else mask == -math.inf
        found = torch.softmax(shown.masked_fill_(hidden, -math.inf) if boolean else shown + mask, -1)
        if not is_causal:  # where every query sees the first key
            found.masked_fill_(hidden, 0)
    own.copy_(found.view(own.shape))
    scores[:, 1:].mul_(own.unsqueeze(1))
    return scores


def _attended(weights: Tensor, value: Tensor) -> Tensor:
    """P v and its tangents, [heads, m, n, features], from the weights and v, [m, heads, keys, features]."""
    out = _product(weights, value)
    if weights.shape[1] > 1:
        out[:, 1:].addcmul_(weights[:, 1:].sum(-1, keepdim=True), out[:, :1], value=-1)
    return out


def _dropped(context: Context, weights: Tensor, lead: torch.Size, value: Any, share: float) -> Any:
    """The output where a share of the weights is left out."""
    moved = weights[:, 1:]
    moved.addcmul_(weights[:, :1], moved.sum(-1, keepdim=True), value=-1)
    stack = weights.view(*lead, *weights.shape[1:]).movedim(-3, 0)
    kept = dropout(context, Dual(stack), share)
    return matmul(context, kept if len(stack) > 1 else kept.stack[0], value)


def _causal(query: Any, key: Any) -> Tensor:
    """The causal mask, [length, length]: True where a query may see a key."""
    q, k = primal_of(query), primal_of(key)
    return torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()


def _for_each_head(x: Any, heads: int) -> Any:
    """Repeat keys or values of fewer heads, so that every head of the queries has its own."""
    return _over(lambda s: s.repeat_interleave(heads // s.shape[-3], -3), x)


def _over(change: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Apply `change` to a tensor, or to the stack of one with tangents."""
    return Dual(change(x.stack)) if isinstance(x, Dual) else change(x)
