"""A GPU under one load: what a step costs besides time, in a window long enough for the GPU's counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Protocol, runtime_checkable

from fgbench.measurement.clock import Clock, Reading
from fgbench.measurement.interleave import Arm, K, repeat

WINDOW_SECONDS = 5.0  # NVML's energy counter moves 10 to 50 times a second: in 5 s it is known to a percent
QUEUED_STEPS = 32  # at most so many steps are queued behind a sleep; fewer if the launch queue is short
REPEATS = 3  # how often steps are queued behind a sleep
LONGEST_QUEUEING = 0.4  # seconds; a GPU with a display ends a kernel, as the sleep, after about two


@runtime_checkable
class DeviceClock(Clock, Protocol):
    """A clock that tells the device's time from the host's."""

    def busy_seconds(self, block: Callable[[], object], enqueue_seconds: float) -> float | None:
        """As `CudaClock.busy_seconds`."""


@dataclass(frozen=True)
class Load:
    """What one arm costs when it is alone on a GPU; a value is None where the device does not tell it.

    Attributes:
        steps: how many were taken in the window.
        seconds: host seconds per step, in the blocks of the timing phase.
        busy_seconds: device seconds per step, queued behind a sleep; None where not even one step fits into
            the launch queue.
        sm_clock_mhz, power_watts, temperature_celsius: medians over the window.
        throttle: all reasons that held the clock down in the window, as in `power+thermal`.
        joules: energy per step; None also where the window was shorter than `WINDOW_SECONDS`.
    """

    steps: int
    seconds: float
    busy_seconds: float | None
    sm_clock_mhz: float | None
    power_watts: float | None
    temperature_celsius: float | None
    throttle: str | None
    joules: float | None


def under_load(arm: Arm[K], clock: DeviceClock, seconds: float) -> Load:
    """Repeat an arm's block for `seconds` (the window), and then queue its steps behind a sleep.

    A first block comes before the window. The gauge is read at both ends of the window while work is still
    queued, so that the lag of its energy counter is the same at both.
    """
    block = partial(repeat, arm.step, arm.steps)
    before, spent = clock.time(block), 0.0
    window: list[Reading] = []
    while not window or spent < seconds:
        window.append(clock.time(block))
        spent += window[-1].seconds
    steps, states = arm.steps * len(window), [reading.state for reading in window]
    first, last = before.state.joules, states[-1].joules
    told = spent >= WINDOW_SECONDS and first is not None and last is not None
    reasons = [state.throttle for state in states if state.throttle is not None]
    return Load(
        steps,
        spent / steps,
        queued_seconds(
            arm.step,
            min(arm.steps, QUEUED_STEPS),
            clock,
            median((r.enqueue_seconds or r.seconds) / arm.steps for r in window),
        ),
        _median([state.sm_clock_mhz for state in states]),
        _median([state.power_watts for state in states]),
        _median([state.temperature_celsius for state in states]),
        "+".join(sorted({r for text in reasons for r in text.split("+") if r})) if reasons else None,
        (last - first) / steps if told else None,  # type: ignore[operator]
    )


def queued_seconds(
    run: Callable[[], object], most: int, clock: DeviceClock, enqueue_seconds: float
) -> float | None:
    """Device seconds of one call, of as many behind a sleep as the launch queue holds.

    Args:
        run: what is called.
        most: how many calls are queued; their number is halved until they fit.
        clock: the device's.
        enqueue_seconds: about how long the host takes to queue one call.

    Returns:
        The seconds; None where not even one call fits.
    """
    times = min(most, max(1, int(LONGEST_QUEUEING / max(enqueue_seconds, 1e-9))))
    while times:
        block = partial(repeat, run, times)
        found = [clock.busy_seconds(block, times * enqueue_seconds) for _ in range(REPEATS)]
        fitting = [seconds for seconds in found if seconds is not None]
        if len(fitting) > REPEATS // 2:  # a minority may fail because the host was late, not for the queue
            return median(fitting) / times
        times //= 2
    return None


def _median(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return median(told) if told else None
