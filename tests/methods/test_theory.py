"""Closed forms of second moments and cosines against the estimates of real steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from fgbench import methods
from fgbench.measurement.quality import ALL, Quality, Slope
from fgbench.methods import trainable
from fgbench.running.arms import Problem
from fgbench.running.judging import Judge, Reader, WeightsPoint, layers_of
from fgbench.specs import registry
from tests.builders import cross_entropy, tiny_batch, tiny_mlp

SIGMAS = 4.0
MANY, FEW = 40_000, 120  # simulated draws, and those of real steps
SHAPES = ((3, 4), (3,), (2, 3))
GRADIENT = [torch.linspace(-1, 2, 12).reshape(3, 4), torch.tensor([0.5, 0, 3]), torch.ones(2, 3)]


WITHOUT = (
    "dfa",
    "local-losses",
    "forward:clip=1",
    "forward:structure=activity",
    "forward:structure=fixed-angle,tangents=2",
    "forward:layers=one",
    "forward:structure=rank-one,layers=one,sampling=uniform",
    "forward:structure=rank-one,layers=one,tangents=2",
    "spsa:layers=one",
)


def slopes_of(gradient: Sequence[Tensor]) -> list[Slope]:
    squares = [float(g.square().sum()) for g in gradient]
    return [Slope(g.shape, s / sum(squares)) for g, s in zip(gradient, squares, strict=True)]


# ---- formulas against tangents that are drawn here


def signs(*shape: int) -> Tensor:
    return torch.randint(2, shape).double() * 2 - 1


def normals(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def factored(draw: Callable[..., Tensor], count: int) -> Tensor:
    """u wᵀ of each matrix, a vector of the rest: [count, n]."""
    parts = []
    for shape in SHAPES:
        left = draw(count, shape[0])
        parts.append((left.unsqueeze(2) * draw(count, 1, shape[1])).flatten(1) if len(shape) > 1 else left)
    return torch.cat(parts, 1)


def by_layer(draw: Callable[[int], Tensor], count: int) -> Tensor:
    """One of two layers, p its share of the numbers, as √(1/p) · v: then (∇f·v) v has the weight 1/p."""
    n, first = 21, 15
    chosen = torch.rand(count, 1) < first / n
    there = torch.where(torch.arange(n) < first, chosen, ~chosen)
    return draw(count) * there * torch.where(chosen, n / first, n / (n - first)).sqrt()


def tangents(structure: str, count: int, k: int) -> Tensor:
    """[count, k, n]."""
    n = sum(math.prod(shape) for shape in SHAPES)
    draws: dict[str, Callable[[int], Tensor]] = {
        "gaussian": lambda m: normals(m, n),
        "rademacher": lambda m: signs(m, n),
        "sphere": lambda m: math.sqrt(n) * nn.functional.normalize(normals(m, n)),
        "rank-one": lambda m: factored(signs, m),
        "rank-one,entries=gaussian": lambda m: factored(normals, m),
        "rademacher,layers=one": lambda m: by_layer(lambda m: signs(m, n), m),
        "rank-one,layers=one": lambda m: by_layer(lambda m: factored(signs, m), m),
    }
    if structure == "orthonormal":
        return math.sqrt(n) * torch.linalg.qr(normals(count, n, k))[0].transpose(1, 2)
    return draws[structure](count * k).reshape(count, k, n)


def combined(drawn: Tensor, gradient: Tensor, way: str) -> Tensor:
    along = drawn @ gradient  # [count, k]
    if way == "projection":
        along = torch.linalg.solve(drawn @ drawn.transpose(1, 2), along)
    return (along.unsqueeze(2) * drawn).sum(1) / (drawn.shape[1] if way == "mean" else 1)


CASES = [
    ("gaussian", 1, "mean"),
    ("gaussian", 3, "mean"),
    ("gaussian", 3, "sum"),
    ("gaussian", 3, "projection"),
    ("rademacher", 1, "mean"),
    ("rademacher", 2, "mean"),
    ("rademacher", 3, "projection"),
    ("sphere", 1, "mean"),
    ("sphere", 2, "sum"),
    ("sphere", 2, "projection"),
    ("orthonormal", 1, "mean"),
    ("orthonormal", 3, "mean"),
    ("orthonormal", 3, "sum"),
    ("orthonormal", 3, "projection"),
    ("rank-one", 1, "mean"),
    ("rank-one", 3, "mean"),
    ("rank-one,entries=gaussian", 1, "mean"),
    ("rank-one,entries=gaussian", 3, "mean"),
    ("rademacher,layers=one", 1, "mean"),
    ("rank-one,layers=one", 1, "mean"),
]


@pytest.mark.parametrize(("structure", "k", "way"), CASES)
def test_a_formula_is_the_mean_over_many_draws(structure, k, way):
    torch.manual_seed(0)
    gradient = torch.cat([g.double().flatten() for g in GRADIENT])
    estimates = combined(tangents(structure, MANY, k), gradient, way)
    theory = methods.find(f"forward:structure={structure},tangents={k},combine={way}").theory(
        slopes_of(GRADIENT)
    )
    moments = estimates.square().sum(1) / gradient.square().sum()
    assert theory.second_moment is not None
    near(moments, theory.second_moment, 0.02)
    cosines = (estimates @ gradient) / (estimates.norm(dim=1) * gradient.norm())
    if theory.cosine is not None:
        near(cosines, theory.cosine, 0.01)
    isotropic = structure in ("gaussian", "sphere", "orthonormal")
    assert (theory.cosine is not None) == (
        isotropic and (k == 1 or way == "projection" or structure[0] == "o")
    )


def near(values: Tensor, theory: float, share: float) -> None:
    """Within the error of their mean, which is at most this share: or the test could not fail."""
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - theory) < SIGMAS * error + 1e-9 * theory
    assert error < share * theory


# ---- real steps


def measured(spec: str) -> tuple[Quality, list[Slope]]:
    """Of a few estimates of a real step at the same weights, on one batch."""
    problem = Problem(tiny_mlp(), cross_entropy, [tiny_batch()], 1)
    reader, judge = Reader(problem, spec), Judge(problem)
    point = WeightsPoint("start", 0, [spec], lambda _: problem.batches[0])
    found, _ = judge.draw({spec: reader}, point, FEW, raising)
    shapes = [p.shape for p in judge.parameters]
    slopes = [Slope(s, share) for s, share in zip(shapes, found[spec].shares(), strict=True)]
    return found[spec].by_layer()[ALL], slopes


def raising(event: object) -> None:
    raise AssertionError(event)


@pytest.mark.parametrize(
    "spec",
    [
        "forward:tangents=4",
        "forward:structure=rank-one,entries=gaussian,tangents=4",
        "forward:structure=rank-one,layers=one",
        "forward:tangents=2,scale=variance",
        "spsa",
        "spsa:structure=rademacher,layers=one",
    ],
)
def test_the_estimates_of_a_step_are_as_theory_has_them(spec):
    quality, slopes = measured(spec)
    theory = methods.find(spec).theory(slopes).second_moment
    assert theory is not None
    error = max(quality.second_moment.error, 1e-6 * theory)
    assert abs(quality.second_moment.value - theory) < SIGMAS * error
    assert abs(quality.along.value - 1) < SIGMAS * max(quality.along.error, 1e-6) or "scale" in spec
    assert error < 0.25 * theory


@pytest.mark.parametrize("spec", WITHOUT)
def test_no_formula_is_claimed_where_there_is_none(spec):
    slopes = [Slope((5, 16), 0.6), Slope((5,), 0.4)]
    assert methods.find(spec).theory(slopes).second_moment is None


def test_noise_on_activities_has_the_moment_of_its_layers_inputs_and_slopes():
    """Σ_l Σ_b ‖x_lb‖² (q_l ‖δ_b‖² − ‖δ_lb‖²) + ‖∇f‖², of ±1 for each sample, an input of 1 for the bias."""
    model, (x, y) = tiny_mlp(), tiny_batch()
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def watch(_layer: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        inputs.append(given[0].detach())
        outputs.append(output)

    for layer in (m for m in model if isinstance(m, nn.Linear)):
        layer.register_forward_hook(watch)
    loss = cross_entropy(model(x), y)
    slopes = torch.autograd.grad(loss, outputs, retain_graph=True)
    gradient = torch.autograd.grad(loss, list(trainable(model).values()))
    square = float(sum(g.square().sum() for g in gradient))
    whole = sum(s.square().sum(1) for s in slopes)
    expected = square + sum(
        float(((i.square().sum(1) + 1) * (s.shape[1] * whole - s.square().sum(1))).sum())
        for i, s in zip(inputs, slopes, strict=True)
    )
    quality, _ = measured("forward:structure=activity")
    assert abs(quality.second_moment.value - expected / square) < SIGMAS * quality.second_moment.error
    assert quality.second_moment.error < 0.15 * expected / square


def test_the_mean_cosine_of_a_projection_is_that_of_the_paper():
    """χ̄_k/χ̄_n ≈ √(k/n) (Flügel et al. 2024, §4.1)."""
    slope = [Slope((64, 64), 1.0)]
    found = methods.find("forward:tangents=256,combine=projection").theory(slope)
    assert found.cosine == pytest.approx(math.sqrt(256 / 4096), rel=2e-3)
    assert found.second_moment == 256 / 4096


def test_layers_are_the_modules_that_own_parameters():
    assert layers_of(tiny_mlp()) == {"1": [0, 1], "3": [2, 3]}
    assert layers_of(nn.Linear(2, 2)) == {".": [0, 1]}


def test_every_method_says_what_its_step_costs_and_is_worth():
    for name in registry.names("methods"):
        method = registry.find("methods", name)
        assert method.costs, name
        assert method.worth, name
