"""Forward gradients on Beale and Rosenbrock (Baydin et al. 2022, Fig. 2): where 50 float64 runs ended."""

from __future__ import annotations

import pytest

from fgbench import functions, methods


def descended(spec: str, name: str, rate: float, steps: int, seed: int = 0) -> tuple[float, list[float]]:
    """The function's value at the end, and where that is."""
    function = functions.find(name)
    model, loss, batch = functions.as_problem(function, 2)
    step = methods.find(spec).prepare(model, loss, seed)
    for _ in range(steps):
        step(batch, rate)
    at = model.x.detach()
    return float(function.value(at)), at.tolist()


def test_on_beale_they_end_where_50_seeds_did():
    """Median 5.17e-5, all from 2.8e-5 to 9.5e-5: the median of 9 seeds lies well inside."""
    ends = sorted(descended("forward", "beale", 0.01, 1000, seed)[0] for seed in range(9))
    assert 3.5e-5 < ends[4] < 7.5e-5
    assert 1e-5 < ends[0] < ends[-1] < 2e-4


def test_on_rosenbrock_they_end_where_50_seeds_did():
    """Median 5.36e-6, all from 3.5e-7 to 7.1e-6."""
    found, _ = descended("forward", "rosenbrock", 5e-4, 25_000)
    assert 2e-7 < found < 1e-5


def test_two_projected_tangents_in_two_dimensions_are_gradient_descent():
    spec = "forward:tangents=2,combine=projection,structure=orthonormal"
    found, at = descended(spec, "beale", 0.01, 1000)
    assert found == pytest.approx(5.56012e-5, rel=1e-4)
    assert at == pytest.approx((2.98156, 0.49536), rel=1e-4)
