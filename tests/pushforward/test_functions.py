"""Beale and Rosenbrock (Baydin et al. 2022, Fig. 2): where descent ends, against float64 oracles."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fgbench import methods
from tests.builders import flat


class Beale(nn.Module):
    """(1.5 − x + xy)² + (2.25 − x + xy²)² + (2.625 − x + xy³)²."""

    rate, steps, start = 0.01, 1000, (0.0, 0.5)

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(self.start, dtype=torch.float64))

    def forward(self, _):
        x, y = self.at[0], self.at[1]
        total = 0.0
        for constant, power in ((1.5, y), (2.25, y * y), (2.625, y * y * y)):
            term = x * power - x + constant
            total = total + term * term
        return total


class Rosenbrock(Beale):
    """(1 − x)² + 100 (y − x²)²."""

    rate, steps, start = 5e-4, 25_000, (-1.0, 0.0)

    def forward(self, _):
        x, y = self.at[0], self.at[1]
        slope, valley = x - 1, y - x * x
        return slope * slope + 100 * (valley * valley)


def descended(spec: str, function: type[Beale], seed: int = 0) -> tuple[float, list[float]]:
    """The function's value at the end, and where that is."""
    model = function()
    nothing = torch.zeros(1, dtype=torch.float64), torch.zeros(1)
    step = methods.find(spec).prepare(model, lambda output, _: output, seed)
    for _ in range(function.steps):
        step(nothing, function.rate)
    return float(model(None).detach()), flat([model.at]).tolist()


@pytest.mark.parametrize(
    ("function", "value", "place"),
    [(Beale, 5.56012e-5, (2.98156, 0.49536)), (Rosenbrock, 5.32192e-6, (0.997695, 0.995386))],
)
def test_exact_gradient_descent_ends_where_it_must(function, value, place):
    found, at = descended("backprop", function)
    assert found == pytest.approx(value, rel=1e-5)
    assert at == pytest.approx(place, rel=1e-5)


def test_forward_gradients_on_beale_end_where_50_seeds_did():
    """Median 5.17e-5, all from 2.8e-5 to 9.5e-5: the median of 9 seeds lies well inside."""
    ends = sorted(descended("forward", Beale, seed)[0] for seed in range(9))
    assert 3.5e-5 < ends[4] < 7.5e-5
    assert 1e-5 < ends[0] < ends[-1] < 2e-4


def test_forward_gradients_on_rosenbrock_end_where_50_seeds_did():
    """Median 5.36e-6, all from 3.5e-7 to 7.1e-6."""
    found, _ = descended("forward", Rosenbrock)
    assert 2e-7 < found < 1e-5


def test_two_projected_tangents_in_two_dimensions_are_gradient_descent():
    found, at = descended("forward:tangents=2,combine=projection,structure=orthonormal", Beale)
    assert found == pytest.approx(5.56012e-5, rel=1e-4)
    assert at == pytest.approx((2.98156, 0.49536), rel=1e-4)
