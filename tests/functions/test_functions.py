"""Functions as problems: their starts, their sizes, and descent where its speed is known exactly."""

from __future__ import annotations

import statistics

import pytest
import torch

from fgbench import functions, methods
from fgbench.errors import UsageError

N, STEPS, SEEDS = 64, 60, 24


def descended(
    spec: str, name: str, n: int, rate: float, steps: int, seed: int = 0
) -> tuple[float, list[float]]:
    """The function's value at the end, and where that is."""
    function = functions.find(name)
    model, loss, batch = functions.as_problem(function, n)
    step = methods.find(spec).prepare(model, loss, seed)
    for _ in range(steps):
        step(batch, rate)
    at = model.x.detach()
    return float(function.value(at)), at.tolist()


@pytest.mark.parametrize(
    ("name", "rate", "steps", "value", "place"),
    [
        ("beale", 0.01, 1000, 5.56012e-5, (2.98156, 0.49536)),
        ("rosenbrock", 5e-4, 25_000, 5.32192e-6, (0.997695, 0.995386)),
    ],
)
def test_exact_gradient_descent_ends_where_it_must(name, rate, steps, value, place):
    found, at = descended("backprop", name, 2, rate, steps)
    assert found == pytest.approx(value, rel=1e-5)
    assert at == pytest.approx(place, rel=1e-5)


def mean_factor(spec: str, rate: float) -> float:
    """By how much a step shrinks the sphere in the mean, from `SEEDS` runs of `STEPS`."""
    ends = [descended(spec, "sphere", N, rate, STEPS, seed)[0] for seed in range(SEEDS)]
    return (statistics.fmean(ends) / N) ** (1 / STEPS)


@pytest.mark.parametrize("k", [1, 4, 16])
def test_the_mean_of_k_shrinks_the_sphere_as_theory_says(k):
    """By 1 − k/(n + k + 1) at the best rate, k/(2(n + k + 1))."""
    wanted = 1 - k / (N + k + 1)
    found = mean_factor(f"forward:tangents={k}", k / (2 * (N + k + 1)))
    assert 1 - found == pytest.approx(1 - wanted, rel=0.1)


@pytest.mark.parametrize("k", [2, 16])
def test_the_projection_on_k_shrinks_the_sphere_as_theory_says(k):
    """By 1 − k/n at a rate of a half, which would be one step to the minimum with the whole gradient."""
    found = mean_factor(f"forward:tangents={k},combine=projection", 0.5)
    assert 1 - found == pytest.approx(k / N, rel=0.1)


def test_a_projection_on_all_dimensions_is_the_gradient():
    found, _ = descended("forward:tangents=64,combine=projection", "styblinski-tang", 8, 0.02, 200)
    assert found == pytest.approx(descended("backprop", "styblinski-tang", 8, 0.02, 200)[0], rel=1e-9)
    assert found == pytest.approx(functions.find("styblinski-tang").minimum(8), rel=1e-9)


def test_starts_are_the_papers():
    assert functions.find("beale").start(2).tolist() == [0, 0.5]
    assert functions.find("rosenbrock").start(4).tolist() == [-1, 0, 0, 0]
    assert functions.find("sphere").start(3).tolist() == [-1, -1, -1]
    assert functions.find("styblinski-tang").start(2).tolist() == [0, 0]
    assert functions.find("styblinski-tang").minimum(64) == pytest.approx(-2506.6, abs=0.05)


def test_in_two_dimensions_rosenbrock_is_the_classic():
    x, y = torch.tensor([0.3, -1.2], dtype=torch.float64)
    classic = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    assert functions.find("rosenbrock").value(torch.stack([x, y])) == pytest.approx(float(classic))


@pytest.mark.parametrize(
    ("name", "n", "says"),
    [("beale", 3, "exactly 2 dimensions"), ("rosenbrock", 1, "at least 2"), ("sphere", 0, "1")],
)
def test_a_size_that_a_function_does_not_have_is_refused(name, n, says):
    with pytest.raises(UsageError, match=says):
        functions.as_problem(functions.find(name), n)
