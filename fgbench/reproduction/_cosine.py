"""The angle between two directions in parameter space."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fgbench.methods.steps.oracle import norm


def cosine(estimate: Sequence[Tensor], gradient: Sequence[Tensor]) -> float:
    """Cosine similarity over all tensors together, summed in float64; NaN where either has no length."""
    lengths = norm(estimate) * norm(gradient)
    along = sum(float((e.double() * g.double()).sum()) for e, g in zip(estimate, gradient, strict=True))
    return along / lengths if lengths > 0 else math.nan
