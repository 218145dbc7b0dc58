"""A slowed step takes its share longer, by the clock that it is slowed by, and does the same."""

from __future__ import annotations

from functools import partial
from time import perf_counter

import pytest
import torch

from fgbench.measurement.clock import CudaClock, HostClock
from fgbench.measurement.gauge import Blind
from fgbench.measurement.interleave import repeat
from fgbench.measurement.slowed import slowed
from tests.simulated_queue import SimulatedQueue


def test_it_waits_for_its_share_of_each_step_and_gives_the_step_s_loss(monkeypatch):
    """On a clock of its own: a step of 1 s, and the waiting in ticks of 10 ms."""
    now = {"time": 0.0, "ticks": 0}

    def read() -> float:
        now["time"] += 0.01
        now["ticks"] += 1
        return now["time"]

    def step() -> torch.Tensor:
        now["time"] += 1.0
        return torch.tensor(3.0)

    monkeypatch.setattr("fgbench.measurement.slowed.perf_counter", read)
    run = slowed(step, 0.5, HostClock(), torch.device("cpu"))
    assert float(run()) == 3.0
    assert 1.5 <= now["time"] < 1.6
    assert now["ticks"] > 40


def test_on_the_real_clock_it_is_never_shorter_than_its_share():
    took = {}

    def step() -> torch.Tensor:
        start = perf_counter()
        while perf_counter() - start < 0.002:
            pass
        took["step"] = perf_counter() - start
        return torch.zeros(())

    run = slowed(step, 0.5, HostClock(), torch.device("cpu"))
    for _ in range(5):
        start = perf_counter()
        run()
        assert perf_counter() - start >= 1.5 * took["step"]


@pytest.mark.parametrize(("seconds", "host"), [(2e-6, 10e-6), (100e-6, 10e-6), (9e-6, 10e-6)])
def test_on_a_gpu_it_is_slower_by_its_share_whoever_waits_for_whom(monkeypatch, seconds, host):
    """A step of 100 kernels, launch-bound or not: a sleep of a device that is idle anyway shows nowhere."""
    queue = SimulatedQueue()
    queue.install(monkeypatch)

    def read() -> float:
        queue.now += 1e-7
        return queue.now

    monkeypatch.setattr("fgbench.measurement.slowed.perf_counter", read)
    device = torch.device("cuda:0")
    clock, step = CudaClock(device, Blind()), queue.step(100, seconds, host)
    slower = slowed(step, 0.5, clock, device)  # type: ignore[arg-type]
    plain, slow = (clock.time(partial(repeat, run, 30)).seconds for run in (step, slower))
    assert slow / plain == pytest.approx(1.5, rel=0.05)
