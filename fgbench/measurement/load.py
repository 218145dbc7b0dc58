"""A GPU under one load: what a step costs it beside time, in a window long enough for its counters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Protocol

from fgbench.measurement.clock import Clock, Reading
from fgbench.measurement.interleave import Arm, K

WINDOW_SECONDS = 5.0  # NVML's counter of energy moves ten to fifty times a second: known to a percent
QUEUED_STEPS = 32  # behind a sleep, at most; fewer where the launch queue does not hold them
REPEATS = 3  # of what is queued behind a sleep


class DeviceClock(Clock, Protocol):
    """A clock that tells the device's time from the host's."""

    def busy_seconds(self, block: Callable[[], object], enqueue_seconds: float) -> float | None:
        """Seconds that the device needs for the block when it never waits for the host, if it can be told."""


@dataclass(frozen=True)
class Load:
    """One arm alone on a GPU; what the device does not tell is None.

    Attributes:
        steps: in the window.
        seconds: host seconds per step, in blocks as they are timed.
        busy_seconds: device seconds per step behind a queued sleep; None where not even one step fits into
            the launch queue.
        sm_clock_mhz, power_watts, temperature_celsius: median over the window.
        throttle: all that held the clock down in it, as in `power+thermal`.
        joules: per step; None also where the window was shorter than `WINDOW_SECONDS`.
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
    """Repeat an arm's block for `seconds`, and then queue it behind a sleep.

    The first block is before the window. The gauge is read with work still queued at both ends of it, so
    that its counter lags by as much at the one as at the other.
    """
    block = _steps(arm, arm.steps)
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
        _busy_seconds(arm, clock, window),
        _median([state.sm_clock_mhz for state in states]),
        _median([state.power_watts for state in states]),
        _median([state.temperature_celsius for state in states]),
        "+".join(sorted({r for text in reasons for r in text.split("+") if r})) if reasons else None,
        (last - first) / steps if told else None,  # type: ignore[operator]
    )


def _busy_seconds(arm: Arm[K], clock: DeviceClock, window: Sequence[Reading]) -> float | None:
    """Per step: of as many steps as the launch queue holds, halving their number until they fit."""
    enqueue = median((r.enqueue_seconds or r.seconds) / arm.steps for r in window)
    steps = min(arm.steps, QUEUED_STEPS)
    while steps:
        block = _steps(arm, steps)
        found = [clock.busy_seconds(block, steps * enqueue) for _ in range(REPEATS)]
        fitting = [seconds for seconds in found if seconds is not None]
        if len(fitting) > REPEATS // 2:  # one that the host was late for says nothing of the queue
            return median(fitting) / steps
        steps //= 2
    return None


def _steps(arm: Arm[K], count: int) -> Callable[[], object]:
    return partial(_repeat, arm.step, count)


def _repeat(step: Callable[[], object], times: int) -> None:
    for _ in range(times):
        step()


def _median(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return median(told) if told else None
