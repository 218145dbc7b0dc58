"""Attention, by its definition: flash kernels have no forward mode (pytorch #128971)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, moving
from fgbench.pushforward.rules import NoRuleError, function_rule, module_rule
from fgbench.pushforward.rules.activations import softmax_tangents
from fgbench.pushforward.rules.dropout import dropout
from fgbench.pushforward.rules.functions import matmul
from fgbench.pushforward.rules.linear import linear


@function_rule(F.scaled_dot_product_attention)
def attention(
    context: Context,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Dual:
    """softmax(q kᵀ · scale + mask) v; q, k, v: […, length, features], any of them moving."""
    if enable_gqa or isinstance(attn_mask, Dual):
        raise NoRuleError("grouped queries or a mask that moves")
    output, _ = _attend(context, query, key, value, _mask(query, key, attn_mask, is_causal), dropout_p, scale)
    return output


def _attend(
    context: Context,
    query: Any,
    key: Any,
    value: Any,
    mask: Tensor | None,
    dropout_p: float,
    scale: float | None,
) -> tuple[Dual, Dual]:
    """The output and the attention's weights."""
    query, key, value = (moving(x, context.count) for x in (query, key, value))
    if scale is None:
        scale = 1 / math.sqrt(query.primal.shape[-1])
    scores = matmul(context, Dual(query.stack * scale), Dual(key.stack.transpose(-2, -1)))
    if mask is not None:
        masked = (
            scores.primal.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores.primal + mask
        )
        scores = Dual(torch.cat([masked.unsqueeze(0), scores.tangents]))
    weights = torch.softmax(scores.primal, -1)
    moved = softmax_tangents(scores.tangents, weights, -1)
    both = dropout(context, Dual(torch.cat([weights.unsqueeze(0), moved])), dropout_p)
    return matmul(context, both, value), both


def _mask(query: Any, key: Any, mask: Tensor | None, is_causal: bool) -> Tensor | None:
    """The mask, a causal one drawn up; True is seen."""
    if not is_causal:
        return mask
    stack = query.stack if isinstance(query, Dual) else query
    other = key.stack if isinstance(key, Dual) else key
    return torch.ones(stack.shape[-2], other.shape[-2], dtype=torch.bool, device=stack.device).tril()


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as what is added to the scores: −∞ where False is not seen."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, -math.inf)


@module_rule(nn.MultiheadAttention)
def multi_head_attention(
    context: Context,
    module: nn.MultiheadAttention,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """Projections, heads, attention, output projection: ([B, L, E] or [L, B, E], weights or None)."""
    if module.bias_k is not None or module.add_zero_attn or key_padding_mask is not None:
        raise NoRuleError("extra keys or a padding mask")
    if any(_dimensions(x) != 3 for x in (query, key, value)):
        raise NoRuleError("no batch")
    if attn_mask is not None:
        # Modules mean True as hidden, the function as seen.
        attn_mask = ~attn_mask if attn_mask.dtype == torch.bool else attn_mask
        if attn_mask.dim() == 3:
            attn_mask = attn_mask.unflatten(0, (-1, module.num_heads))
    same = query is key and key is value
    batch_first = module.batch_first
    projected = _projections(context, module, query, key, value, same)
    q, k, v = (_split_heads(x, module.num_heads, batch_first) for x in projected)
    drop = module.dropout if module.training else 0.0
    output, weights = _attend(context, q, k, v, attn_mask, drop, None)
    joined = output.stack.permute(0, 3, 1, 2, 4).flatten(3)  # [1 + k, L, B, E]
    result = linear(context, Dual(joined), module.out_proj.weight, module.out_proj.bias)
    if batch_first:  # laid out as PyTorch's own, so that a dropout after it drops the same
        result = Dual(result.stack.transpose(1, 2))
    if not need_weights:
        return result, None
    return result, Dual(weights.stack.mean(2)) if average_attn_weights else weights


def _dimensions(x: Any) -> int:
    return (x.primal if isinstance(x, Dual) else x).dim()


def _projections(
    context: Context, module: nn.MultiheadAttention, query: Any, key: Any, value: Any, same: bool
) -> list[Dual]:
    """q, k and v, in one matmul where they are of one input, each moving."""
    if not module._qkv_same_embed_dim:
        raise NoRuleError("keys or values of another width")
    weight, bias = module.in_proj_weight, module.in_proj_bias
    if not same:
        raise NoRuleError("queries of another input than keys")
    return [Dual(s) for s in linear(context, query, weight, bias).stack.chunk(3, dim=-1)]


def _split_heads(x: Dual, heads: int, batch_first: bool) -> Dual:
    """[1 + k, B, heads, L, features] of [1 + k, B, L, E] or [1 + k, L, B, E]."""
    stack = x.stack if batch_first else x.stack.transpose(1, 2)
    return Dual(stack.unflatten(-1, (heads, -1)).transpose(2, 3))
