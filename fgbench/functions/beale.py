"""Beale's function: flat far from its minimum, with sharp peaks at the corners."""

import torch
from torch import Tensor

from fgbench.functions import Function


def _value(point: Tensor) -> Tensor:
    x, y = point[0], point[1]
    xy = x * y
    xyy = xy * y
    first, second, third = xy - x + 1.5, xyy - x + 2.25, xyy * y - x + 2.625
    return first * first + second * second + third * third


function = Function(
    _value,
    start=lambda n: torch.tensor([0.0, 0.5], dtype=torch.float64),
    minimum=lambda n: 0.0,
    minimizer=lambda n: torch.tensor([3.0, 0.5], dtype=torch.float64),
    default_n=2,
    summary="(1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)²",
    source="Beale 1958; Baydin et al. 2022 (arXiv 2202.08587), Fig. 2",
    fixed_n=True,
)
