"""The clocks: what is timed, and nothing else."""

from __future__ import annotations

import pytest
import torch

from fgbench.measurement import clock as module
from fgbench.measurement.clock import CudaClock, HostClock, Reading, clock_for


def test_host_clock_reads_before_and_after_one_run_of_the_block(monkeypatch):
    happened: list[str] = []
    times = iter([10.0, 12.5])

    def now() -> float:
        happened.append("read")
        return next(times)

    monkeypatch.setattr(module, "perf_counter", now)
    assert HostClock().time(lambda: happened.append("block")) == Reading(2.5, None)
    assert happened == ["read", "block", "read"]


def test_a_cpu_gets_the_host_clock():
    assert isinstance(clock_for(torch.device("cpu")), HostClock)


def test_a_block_that_raises_raises():
    with pytest.raises(ZeroDivisionError):
        HostClock().time(lambda: 1 / 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_seconds_are_within_host_seconds_on_a_gpu():
    clock = clock_for(torch.device("cuda:0"))
    assert isinstance(clock, CudaClock)
    x = torch.randn(2048, 2048, device="cuda:0")
    reading = clock.time(lambda: [x @ x for _ in range(20)])
    assert reading.device_seconds is not None
    assert 0 < reading.device_seconds <= reading.seconds
