"""The clocks: what is timed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

import pytest
import torch

from fgbench.measurement import clock as module
from fgbench.measurement.clock import CudaClock, HostClock, Reading, clock_for
from fgbench.measurement.gauge import Blind, State, gauge_for
from fgbench.measurement.interleave import Arm
from fgbench.measurement.load import WINDOW_SECONDS, under_load
from tests.simulated_queue import CAPACITY, SimulatedQueue


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


DEVICE = torch.device("cuda:1")


@pytest.fixture
def queue(monkeypatch) -> SimulatedQueue:
    simulated = SimulatedQueue()
    simulated.install(monkeypatch)
    return simulated


def test_a_gpu_is_synchronised_at_the_edges_alone_with_events_on_the_devices_own_stream(queue):
    def block() -> None:
        queue.calls.append("block")
        queue.launch(1.0, host=0.25)

    reading = CudaClock(DEVICE, Blind()).time(block)
    edge, event = "synchronise cuda:1", "event on cuda:1"
    assert queue.calls == [edge, event, "block", event, edge], "the current device is cuda:0"
    assert reading.enqueue_seconds == pytest.approx(0.25, rel=1e-4)
    assert reading.seconds == pytest.approx(1.25, rel=1e-4)
    assert reading.device_seconds == pytest.approx(1.25, rel=1e-4)
    assert reading.state == State()


def test_the_gauge_is_read_while_the_block_is_under_way_and_the_clock_does_not_wait_for_it(
    queue, monkeypatch
):
    """The device is done only when the gauge was asked; the gauge answers only when the clock was read."""
    asked, stopped = Event(), Event()
    drain = queue.synchronize

    class SlowGauge:
        def read(self) -> State:
            assert queue.calls[-1] == "event on cuda:1", "all is queued"
            asked.set()
            assert stopped.wait(10)
            return State(1500.0, 300.0, 60.0, "power", 100.0)

    def synchronize(device: torch.device) -> None:
        if "event on cuda:1" in queue.calls:
            assert asked.wait(10), "the gauge is not read before the device is idle"
        drain(device)

    def now() -> float:
        if queue.calls.count("synchronise cuda:1") == 2:
            stopped.set()
        return queue.now

    monkeypatch.setattr(queue, "synchronize", synchronize)
    monkeypatch.setattr(module, "perf_counter", now)
    reading = CudaClock(DEVICE, SlowGauge()).time(queue.step(1, 1.0))
    assert reading.seconds == pytest.approx(1.0, rel=1e-4)
    assert reading.state == State(1500.0, 300.0, 60.0, "power", 100.0)


class TestBusySeconds:
    """What the device needs, told apart from what the host makes it wait."""

    def busy(self, queue: SimulatedQueue, block: Callable[[], object]) -> tuple[float | None, Reading]:
        clock = CudaClock(DEVICE, Blind())
        reading = clock.time(block)
        assert reading.enqueue_seconds is not None
        return clock.busy_seconds(block, reading.enqueue_seconds), reading

    def test_a_device_that_waits_for_the_host_is_timed_without_the_waiting(self, queue):
        busy, reading = self.busy(queue, queue.step(100, seconds=1e-6, host=10e-6))
        assert reading.device_seconds == pytest.approx(reading.seconds, rel=0.05), "events alone do not tell"
        assert reading.seconds == pytest.approx(1e-3, rel=0.05)
        assert busy == pytest.approx(0.1e-3, rel=0.01)

    def test_a_device_that_does_not_wait_needs_as_long_behind_the_sleep(self, queue):
        busy, reading = self.busy(queue, queue.step(100, seconds=100e-6))
        assert busy == pytest.approx(10e-3, rel=0.01)
        assert reading.seconds == pytest.approx(busy, rel=0.01)

    @pytest.mark.parametrize(("launches", "fits"), [(CAPACITY - 20, True), (CAPACITY + 20, False)])
    @pytest.mark.parametrize("seconds", [1e-6, 100e-6])
    def test_what_the_launch_queue_does_not_hold_is_not_told(self, queue, launches, fits, seconds):
        busy, _ = self.busy(queue, queue.step(launches, seconds))
        assert busy == (pytest.approx(launches * seconds, rel=0.01) if fits else None)

    def test_a_block_that_waits_for_the_device_is_not_told(self, queue):
        def block() -> None:
            queue.launch(1e-3)
            queue.synchronize(DEVICE)

        assert self.busy(queue, block)[0] is None

    def test_the_sleep_is_on_the_same_device_between_synchronising_and_the_events(self, queue):
        clock = CudaClock(DEVICE, Blind())
        clock.busy_seconds(queue.step(1, 1e-3), 0.0)  # calibrates too
        queue.calls.clear()
        clock.busy_seconds(lambda: queue.calls.append("block"), 0.0)
        edge, event = "synchronise cuda:1", "event on cuda:1"
        assert queue.calls == [edge, "sleep on cuda:1", event, "block", event, "event done?", edge]
        assert queue.current == 0, "the current device is again what it was"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_seconds_are_within_host_seconds_on_a_gpu():
    clock = clock_for(torch.device("cuda:0"))
    assert isinstance(clock, CudaClock)
    x = torch.randn(2048, 2048, device="cuda:0")
    reading = clock.time(lambda: [x @ x for _ in range(20)])
    assert reading.device_seconds is not None
    assert 0 < reading.device_seconds <= reading.seconds


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.real_time
def test_large_products_keep_a_gpu_busy_and_small_ones_do_not():
    device = torch.device("cuda:0")
    clock = CudaClock(device, gauge_for(device))
    large, small = (torch.randn(size, size, device=device) for size in (4096, 16))
    for x, bound in ((large, False), (small, True)):
        x @ x
        load = under_load(Arm("product", lambda x=x: x @ x, steps=100), clock, WINDOW_SECONDS)
        assert load.busy_seconds is not None
        assert (load.busy_seconds < 0.8 * load.seconds) == bound, load
        assert load.sm_clock_mhz
        assert load.joules is None or load.joules > 0
