"""The rule of products of groups of rows, each with a matrix of its own, as of a transformer's experts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, empty_dual, primal_of
from fgbench.pushforward.rules import NoRuleError, rule


@rule("_grouped_mm")
def grouped_mm(
    context: Context, a: Any, b: Any, offs: Tensor | None = None, bias: Any = None, out_dtype: Any = None
) -> Dual:
    """ȧ b + a ḃ: of [rows, n] and [groups, n, m], or other groups of `torch.nn.functional.grouped_mm`."""
    if isinstance(bias, Dual):
        raise NoRuleError("a bias that moves")

    def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
        return torch._grouped_mm(left, right, offs=offs, bias=bias, out_dtype=out_dtype)

    value = product(primal_of(a), primal_of(b), bias)
    out = empty_dual(value, context.count)
    out.primal.copy_(value)
    for index, moved in enumerate(out.tangents):
        if isinstance(a, Dual):
            moved.copy_(product(a.tangents[index], primal_of(b)))
        if isinstance(b, Dual):
            along = product(primal_of(a), b.tangents[index])
            moved.add_(along) if isinstance(a, Dual) else moved.copy_(along)
    return out
