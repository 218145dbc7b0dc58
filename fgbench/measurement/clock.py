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

CYCLES = 20_000_000  # a GPU's sleep of so many cycles, about ten milliseconds, tells cycles a second


@dataclass(frozen=True)
class Reading:
    """How long one block took.

    Attributes:
        seconds: host time, from the device being idle until it is idle again.
        device_seconds: time between two events around the block; None without a device queue (CPU).
        enqueue_seconds: host time until all of the block was queued; None without a device queue. It is
            nearly all of `seconds` if the device waited for the host, but also if the launch queue was full
            and the host waited for the device; `CudaClock.busy_seconds` tells these apart.
        state: the state of the device when all of the block was queued.
    """

    seconds: float
    device_seconds: float | None = None
    enqueue_seconds: float | None = None
    state: State = field(default_factory=State)


class Clock(Protocol):
    """Times a block of work; tests use a clock whose times are written in advance."""

    def time(self, block: Callable[[], object]) -> Reading:
        """Run the block once; gives how long it took."""


class HostClock:
    """The clock for a CPU, where work is done when the call returns."""

    def time(self, block: Callable[[], object]) -> Reading:
        """Host seconds of one call."""
        start = perf_counter()
        block()
        return Reading(perf_counter() - start)


class CudaClock:
    """The clock for a GPU: it synchronises only at the block's edges, and puts events around the same block.

    The events are on the device's own current stream, whatever the current device is.
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

        The gauge is read while the last of the block's work is running. A thread of its own reads it, so
        that the clock does not wait for it.
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
        """Seconds that the device needs for the block when it never has to wait for the host.

        The block is queued behind a sleep of the device, a little more than twice as long as queueing takes.

        Args:
            block: what is timed.
            enqueue_seconds: about how long the host takes to queue the block.

        Returns:
            The seconds; None where the device began before all was queued. The launch queue then does not
            hold the whole block, or the block itself waits for the device.
        """
        with self._cuda.device(self._device):  # the sleep is queued on the current device's stream
            seconds = 2 * enqueue_seconds + CYCLES / self._speed()
            self._cuda.synchronize(self._device)
            self._sleep(seconds * self._speed())
            self._between_events(block)
            in_time = not self._begin.query()  # the device is still asleep
            self._cuda.synchronize(self._device)
        return self._elapsed() if in_time else None

    def _speed(self) -> float:
        """Cycles of a sleep in a second; measured once, by a second sleep, as the first wakes the device."""
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
    """The clock that a device needs; on a GPU it also reads `gauge` during each block."""
    return CudaClock(device, gauge or Blind()) if device.type == "cuda" else HostClock()
