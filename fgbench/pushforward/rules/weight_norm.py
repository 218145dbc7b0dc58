"""Weight normalisation, whose fused kernel has no forward mode."""

from __future__ import annotations

from typing import Any

import torch

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, primal_of
from fgbench.pushforward.rules import rule
from fgbench.pushforward.rules.arithmetic import div, mul
from fgbench.pushforward.rules.reductions import vector_norm


@rule("_weight_norm")
def weight_norm(context: Context, v: Any, g: Any, dim: int = 0) -> Dual:
    """v · g / ‖v‖, with a norm for each entry of one dimension; −1 stands for one norm of all."""
    size = primal_of(v).dim()
    dims = [d for d in range(size) if d != dim]
    if not isinstance(v, Dual):
        return mul(context, g, v / torch.linalg.vector_norm(v, 2, dims, True))
    return mul(context, v, div(context, g, vector_norm(context, v, 2, dims, True)))
