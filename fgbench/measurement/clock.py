"""Clocks: how long a block of steps took, on the host and on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from fgbench.measurement.gauge import Blind, Gauge, State

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Reading:
    """What a clock says of one block.

    Attributes:
        seconds: host time from the device being idle to its being idle again.
        device_seconds: time between two events round the same block; None where there is no device
            queue (CPU).
        enqueue_seconds: host time until the last of it was queued; None likewise. Where it is nearly
            all of `seconds` the device waited for the host.
        state: of the device at the end.
        joules: that the device drew meanwhile.
    """

    seconds: float
    device_seconds: float | None = None
    enqueue_seconds: float | None = None
    state: State = field(default_factory=State)
    joules: float | None = None


class Clock(Protocol):
    """Times a block; what a test replaces by a scripted one."""

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
    """For a GPU: synchronised at the block's edges only, with events round the same block."""

    def __init__(self, device: torch.device, gauge: Gauge) -> None:
        import torch

        self._cuda, self._device, self._gauge = torch.cuda, device, gauge
        self._begin = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def time(self, block: Callable[[], object]) -> Reading:
        """Host seconds from idle to idle, and the seconds between the events; the gauge off the clock."""
        before = self._gauge.read().joules
        self._cuda.synchronize(self._device)
        start = perf_counter()
        self._begin.record()
        block()
        self._end.record()
        enqueued = perf_counter() - start
        self._cuda.synchronize(self._device)
        seconds = perf_counter() - start
        state = self._gauge.read()
        drawn = None if before is None or state.joules is None else state.joules - before
        return Reading(seconds, self._begin.elapsed_time(self._end) / 1000, enqueued, state, drawn)


def clock_for(device: torch.device, gauge: Gauge | None = None) -> Clock:
    """The clock that a device needs; `gauge` is read round each block where the device has one."""
    return CudaClock(device, gauge or Blind()) if device.type == "cuda" else HostClock()
