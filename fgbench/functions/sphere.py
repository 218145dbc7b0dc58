"""The sphere function Σ x², a quadratic on which the speed of every method is known exactly."""

import torch
from torch import Tensor

from fgbench.functions import Function


def _value(x: Tensor) -> Tensor:
    return (x * x).sum()


function = Function(
    _value,
    start=lambda n: -torch.ones(n, dtype=torch.float64),
    minimum=lambda n: 0.0,
    minimizer=lambda n: torch.zeros(n, dtype=torch.float64),
    default_n=2,
    summary="Σ x²",
    source="Flügel et al. 2024 (arXiv 2410.17764), §4.2",
)
