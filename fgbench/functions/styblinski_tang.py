"""Styblinski and Tang's function: two minima in every dimension, one of them the lower."""

import torch
from torch import Tensor

from fgbench.functions import Function

# The lowest root of f' = 2x³ − 16x + 5/2 in one dimension, and the value there.
LOWEST_AT, LOWEST = -2.903534027771177, -39.16616570377142


def _value(x: Tensor) -> Tensor:
    square = x * x
    return (square * square - 16 * square + 5 * x).sum() / 2


function = Function(
    _value,
    start=lambda n: torch.zeros(n, dtype=torch.float64),
    minimum=lambda n: LOWEST * n,
    minimizer=lambda n: torch.full((n,), LOWEST_AT, dtype=torch.float64),
    default_n=2,
    summary="½ Σ x⁴ − 16x² + 5x",
    source="Styblinski and Tang 1990; Flügel et al. 2024 (arXiv 2410.17764), §4.2",
)
