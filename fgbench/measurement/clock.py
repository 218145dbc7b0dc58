"""Clocks: how long a block of steps took, on the host and on the device."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from fgbench.measurement.gauge import Blind, Gauge, State

if TYPE_CHECKING:
    import torch

CYCLES = 20_000_000  # of the sleep by which a GPU's cycles are told in seconds: about ten milliseconds


@dataclass(frozen=True)
class Reading:
    """What a clock says of one block.

    Attributes:
        seconds: host time from the device being idle to its being idle again.
        device_seconds: time between two events round the same block; None where there is no device
            queue (CPU).
        enqueue_seconds: host time until the last of it was queued; None likewise. Nearly all of `seconds`
            where the device waited for the host, and also where the launch queue was full and the host waited
            for the device: see `CudaClock.busy_seconds`.
        state: of the device when the last of it was queued.
    """

    seconds: float
    device_seconds: float | None = None
    enqueue_seconds: float | None = None
    state: State = field(default_factory=State)


class Clock(Protocol):
    """What times a block; tests use one whose times are written in advance."""

    def time(self, block: Callable[[], object]) -> Reading:
        """Run the block once and say how long it took."""


class HostClock:
    """For a CPU: work is done when the call returns."""

    def time(self, block: Callable[[], object]) -> Reading:
        """Host seconds of one call."""
        start = perf_counter()
        block()
        return Reading(perf_counter() - start)


class CudaClock:
    """For a GPU: synchronised at the block's edges only, with events round the same block.

    Events lie on the device's own current stream, whatever the current device is.
    """

    def __init__(self, device: torch.device, gauge: Gauge) -> None:
        import torch

        self._cuda, self._device, self._gauge = torch.cuda, device, gauge
        self._begin = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)
        self._aside = None if isinstance(gauge, Blind) else ThreadPoolExecutor(1, "gauge")
        self._cycles_a_second: float | None = None

    def time(self, block: Callable[[], object]) -> Reading:
        """Host seconds from idle to idle, and the seconds between the events.

        The gauge is read while the last of the block's work is under way, by a thread of its own: the clock
        does not wait for it.
        """
        self._cuda.synchronize(self._device)
        start = perf_counter()
        self._between_events(block)
        enqueued = perf_counter() - start
        state = self._aside.submit(self._gauge.read) if self._aside else None
        self._cuda.synchronize(self._device)
        seconds = perf_counter() - start
        return Reading(seconds, self._elapsed(), enqueued, state.result() if state else State())

    def busy_seconds(self, block: Callable[[], object], enqueue_seconds: float) -> float | None:
        """Seconds that the device needs for the block when it never waits for the host.

        The block is queued behind a sleep of the device twice as long as queueing takes, and a little more.

        Args:
            block: what is timed.
            enqueue_seconds: that queueing it takes the host, about.

        Returns:
            None where the device began before all was queued: its launch queue does not hold the block (the
            host then waits in the midst of it until the device takes up work), or the block itself waits for
            the device.
        """
        with self._cuda.device(self._device):  # on whose stream a sleep is queued
            seconds = 2 * enqueue_seconds + CYCLES / self._speed()
            self._cuda.synchronize(self._device)
            self._sleep(seconds * self._speed())
            self._between_events(block)
            in_time = not self._begin.query()  # the device sleeps still
            self._cuda.synchronize(self._device)
        return self._elapsed() if in_time else None

    def _speed(self) -> float:
        """Cycles of a sleep in a second; calibrated once, by the second of two sleeps: the first wakes it."""
        if self._cycles_a_second is None:
            self._sleep(CYCLES)
            self._between_events(lambda: self._sleep(CYCLES))
            self._cuda.synchronize(self._device)
            self._cycles_a_second = CYCLES / self._elapsed()
        return self._cycles_a_second

    def _sleep(self, cycles: float) -> None:
        self._cuda._sleep(round(cycles))  # type: ignore[no-untyped-call]

    def _between_events(self, block: Callable[[], object]) -> None:
        stream = self._cuda.current_stream(self._device)
        self._begin.record(stream)
        block()
        self._end.record(stream)

    def _elapsed(self) -> float:
        return self._begin.elapsed_time(self._end) / 1000


def clock_for(device: torch.device, gauge: Gauge | None = None) -> Clock:
    """The clock that a device needs; `gauge` is read round each block where the device has one."""
    return CudaClock(device, gauge or Blind()) if device.type == "cuda" else HostClock()
