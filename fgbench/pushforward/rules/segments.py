"""Reductions of segments, as of the nodes of each graph in a batch of graphs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of
from fgbench.pushforward.rules import rule

LINEAR = ("sum", "mean")


@rule("segment_reduce")
def segment_reduce(
    context: Context,
    data: Dual,
    reduce: str,
    *,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    dim: int = 0,
    initial: float | None = None,
    **options: Any,
) -> Dual:
    """An entry is in one segment only, so that a segment's tangent is the sum over it of slope · tangent.

    The slopes are reverse mode's, which says how equal extremes share them. `dim` is what torch calls `axis`.
    """
    dim %= data.primal.dim()
    parts: dict[str, Any] = {"lengths": lengths, "offsets": offsets}
    value = torch.segment_reduce(data.primal, reduce, **parts, axis=dim, initial=initial, **options)
    moved = data.tangents
    if reduce not in LINEAR:
        slopes = torch.ops.aten._segment_reduce_backward(
            torch.ones_like(value), value, data.primal, reduce, **parts, axis=dim, initial=initial
        )
        moved, reduce = moved * slopes, "sum"
    parts = {
        key: part if part is None else part.expand(data.count, *part.shape) for key, part in parts.items()
    }
    moved = torch.segment_reduce(moved, reduce, **parts, axis=dim + 1, initial=0, unsafe=True)
    return dual_of(value, moved)
