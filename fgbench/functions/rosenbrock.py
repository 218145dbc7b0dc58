"""Rosenbrock's function: a curved valley that is a thousand times steeper across than along."""

import torch
from torch import Tensor

from fgbench.functions import Function


def _value(x: Tensor) -> Tensor:
    before = x[:-1]
    slope, valley = before - 1, x[1:] - before * before
    return (slope * slope + 100 * (valley * valley)).sum()


def _start(n: int) -> Tensor:
    point = torch.zeros(n, dtype=torch.float64)
    point[0] = -1
    return point


function = Function(
    _value,
    _start,
    minimum=lambda n: 0.0,
    minimizer=lambda n: torch.ones(n, dtype=torch.float64),
    default_n=2,
    summary="Σ (1 − x_i)² + 100 (x_{i+1} − x_i²)², over i < n",
    source="Rosenbrock 1960; Baydin et al. 2022 (arXiv 2202.08587), Fig. 2; Flügel et al. 2024, §4.2",
    least_n=2,
)
