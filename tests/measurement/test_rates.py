"""Rates on a scripted clock, and the floor that follows from them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fgbench.measurement.clock import Reading
from fgbench.measurement.cost import Work, count
from fgbench.measurement.rates import Rates, byte_rate, product_rate


def test_the_floor_is_the_dearer_of_flops_and_bytes():
    rates = Rates(flops=100.0, bytes=10.0)
    assert rates.floor(Work(200, 10, 1, frozenset())) == 2.0
    assert rates.floor(Work(200, 50, 1, frozenset())) == 5.0


class Steady:
    """A clock by which every call of a block's work takes so long; the first readings are disturbed."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.readings = seconds, 0

    def time(self, block) -> Reading:
        calls = 0

        def counted(*_arguments, **_options):
            nonlocal calls
            calls += 1

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "mm", counted)
            patch.setattr(torch, "add", counted)
            patch.setattr(torch, "convolution", counted)
            block()
        self.readings += 1
        return Reading(calls * self.seconds * (3.0 if self.readings % 2 else 1.0))


def test_rates_are_of_the_best_reading():
    cpu = torch.device("cpu")
    shape = (10, 20, 30)
    found = product_rate(frozenset([shape]), {}, cpu, torch.float32, Steady(1e-3))
    assert found == pytest.approx(2 * 1024**3 / 1e-3), "the square one is the best where all take as long"
    assert byte_rate(12_000_000, cpu, Steady(1e-3)) == pytest.approx(12_000_000 / 1e-3)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.Conv1d(64, 96, 3, bias=False), (4096,)),
        (nn.Conv2d(64, 96, 3, stride=2, padding=1, bias=False), (64, 64)),
        (nn.Conv2d(64, 96, 3, groups=4, dilation=2, bias=False), (64, 64)),
        (nn.ConvTranspose2d(64, 96, 3, stride=2, output_padding=1, bias=False), (64, 64)),
        (nn.Conv3d(64, 96, 3, bias=False), (12, 12, 12)),
    ],
)
def test_a_convolution_has_its_own_rate(layer, sizes):
    """A library may compute it faster than a matrix product, and then its rate is the best there is."""
    work = count(lambda: layer(torch.ones(32, 64, *sizes)))
    found = product_rate(frozenset(), work.convolutions, torch.device("cpu"), torch.float32, Steady(1e-3))
    assert found == pytest.approx(max(work.flops, 2 * 1024**3) / 1e-3)
