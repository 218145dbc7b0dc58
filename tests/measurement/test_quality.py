"""Figures of estimates against the same by hand in float64."""

from __future__ import annotations

import math

import pytest
import torch

from fgbench.measurement.quality import ALL, Draws, Quality

LAYERS = {"first": (0, 1), "second": (2,)}


@pytest.fixture
def drawn():
    """Four draws of an estimate, a gradient and a large batch's gradient, of three parameters."""
    torch.manual_seed(0)
    shapes = ((3, 4), (3,), (2, 3))
    return [tuple([torch.randn(shape).double() for shape in shapes] for _ in range(3)) for _ in range(4)]


def of(drawn) -> dict[str, Quality]:
    draws = Draws(LAYERS)
    for estimate, gradient, large in drawn:
        draws.add(estimate, gradient, large)
    return draws.by_layer()


def flat(tensors, places):
    return torch.cat([tensors[place].flatten() for place in places])


@pytest.mark.parametrize("layer", [ALL, *LAYERS])
def test_every_figure_is_its_definition(drawn, layer):
    places = LAYERS.get(layer, (0, 1, 2))
    figures: dict[str, list[float]] = {}
    for tensors in drawn:
        g, f, w = (flat(t, places) for t in tensors)
        for name, value in {
            "cosine": g @ f / (g.norm() * f.norm()),
            "cosine_large": g @ w / (g.norm() * w.norm()),
            "second_moment": g @ g / (f @ f),
            "second_moment_large": g @ g / (w @ w),
            "along": g @ f / (f @ f),
            "along_large": g @ w / (w @ w),
        }.items():
            figures.setdefault(name, []).append(float(value))
    quality = of(drawn)[layer]
    assert (quality.draws, quality.status) == (4, "ok")
    for name, values in figures.items():
        mean = sum(values) / 4
        error = math.sqrt(sum((v - mean) ** 2 for v in values) / 3 / 4)
        found = getattr(quality, name)
        assert (found.value, found.error) == pytest.approx((mean, error), rel=1e-12), name
    signal = quality.along.value**2
    assert quality.signal_to_noise == pytest.approx(signal / (quality.second_moment.value - signal))


def test_the_gradient_itself_has_no_noise(drawn):
    quality = of([(gradient, gradient, large) for _, gradient, large in drawn])[ALL]
    assert quality.signal_to_noise == math.inf
    assert quality.cosine.value == pytest.approx(1, rel=1e-12)


def test_a_draw_has_no_spread(drawn):
    quality = of(drawn[:1])[ALL]
    assert not math.isnan(quality.cosine.value)
    assert math.isnan(quality.cosine.error)


def test_what_is_not_finite_or_without_length_is_a_status_and_no_figure(drawn):
    drawn[2][0][2][0, 0] = math.nan
    found = of(drawn)
    assert [found[name].status for name in (ALL, "first", "second")] == ["not finite", "ok", "not finite"]
    assert math.isnan(found[ALL].second_moment.value)
    for tensor in drawn[1][1][:2]:
        tensor.zero_()
    found = of(drawn[:2])
    assert [found[name].status for name in (ALL, "first", "second")] == ["ok", "zero gradient", "ok"]
    assert math.isnan(found["first"].cosine.value)
    assert math.isnan(found["first"].signal_to_noise)


def test_an_estimate_of_another_layer_has_no_angle_to_this_ones_gradient(drawn):
    for estimate, _, _ in drawn:
        estimate[2].zero_()
    quality = of(drawn)["second"]
    assert (quality.cosine.value, quality.second_moment.value, quality.status) == (0, 0, "ok")


def test_shares_are_those_of_the_gradients_square(drawn):
    draws = Draws(LAYERS)
    draws.add(*drawn[0])
    squares = [float(g.square().sum()) for g in drawn[0][1]]
    assert draws.shares() == pytest.approx([s / sum(squares) for s in squares], rel=1e-12)
