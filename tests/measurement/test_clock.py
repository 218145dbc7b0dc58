"""The clocks: what is timed, and nothing else."""

from __future__ import annotations

import pytest
import torch

from fgbench.measurement import clock as module
from fgbench.measurement.clock import CudaClock, HostClock, Reading, clock_for
from fgbench.measurement.gauge import State


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


class FakeCuda:
    """A device whose queue takes 2 seconds to empty; every call is written down."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []  # type: ignore[var-annotated]

    def Event(self, enable_timing: bool) -> FakeCuda:  # noqa: N802 - torch's name
        return self

    def record(self) -> None:
        self.calls.append("event")

    def elapsed_time(self, other: FakeCuda) -> float:
        return 2500.0

    def synchronize(self, device: object) -> None:
        self.calls.append("synchronize")
        self.now += 2.0

    def read(self) -> State:
        self.calls.append("gauge")
        return State(1500.0, 300.0, 60.0, "power", 100.0 + 10 * self.now)


def test_a_gpu_is_synchronised_at_the_edges_alone_and_the_gauge_is_off_the_clock(monkeypatch):
    cuda = FakeCuda()
    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(module, "perf_counter", lambda: cuda.now)

    def block() -> None:
        cuda.calls.append("block")
        cuda.now += 1.0

    reading = CudaClock(torch.device("cuda:0"), cuda).time(block)
    assert cuda.calls == ["gauge", "synchronize", "event", "block", "event", "synchronize", "gauge"]
    assert (reading.seconds, reading.enqueue_seconds, reading.device_seconds) == (3.0, 1.0, 2.5)
    assert (reading.state.sm_clock_mhz, reading.state.throttle) == (1500.0, "power")
    assert reading.joules == 50.0, "the 5 seconds between the gauge's readings"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_seconds_are_within_host_seconds_on_a_gpu():
    clock = clock_for(torch.device("cuda:0"))
    assert isinstance(clock, CudaClock)
    x = torch.randn(2048, 2048, device="cuda:0")
    reading = clock.time(lambda: [x @ x for _ in range(20)])
    assert reading.device_seconds is not None
    assert 0 < reading.device_seconds <= reading.seconds
