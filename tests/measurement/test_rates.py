"""Rates on a scripted clock, and the floor that follows from them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fgbench.measurement.clock import CudaClock, Reading
from fgbench.measurement.cost import Work, count
from fgbench.measurement.gauge import Blind
from fgbench.measurement.rates import Rates, byte_rate, launch_seconds, product_rate, random_rate
from tests.simulated_queue import SimulatedQueue


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


class TestOnAGpu:
    """A kernel of two microseconds, which the host takes ten to start."""

    KERNEL, HOST = 2e-6, 10e-6

    @pytest.fixture
    def clock(self, monkeypatch) -> CudaClock:
        queue = SimulatedQueue()
        queue.install(monkeypatch)

        def launches(*_arguments, **_options):
            queue.launch(self.KERNEL, self.HOST)

        for place, name in ((torch, "mm"), (torch, "add"), (torch.Tensor, "normal_"), (torch.Tensor, "add_")):
            monkeypatch.setattr(place, name, launches)
        return CudaClock(torch.device("cuda:0"), Blind())

    def test_rates_are_the_devices_and_not_those_of_starting_kernels(self, clock):
        """A captured step's floor would else lie above the time that it takes."""
        cpu, shape = torch.device("cpu"), (2048, 2048, 2048)
        found = product_rate(frozenset([shape]), {}, cpu, torch.float32, clock)
        assert found == pytest.approx(2 * 2048**3 / self.KERNEL, rel=0.05)
        assert byte_rate(12_000_000, cpu, clock) == pytest.approx(12_000_000 / self.KERNEL, rel=0.05)
        assert random_rate(cpu, torch.float32, clock) == pytest.approx(1024**2 / self.KERNEL, rel=0.05)

    def test_starting_an_operation_takes_the_hosts_time(self, clock):
        assert launch_seconds(torch.device("cpu"), clock) == pytest.approx(self.HOST, rel=0.05)
