"""Interleaved timing: every arm runs in every round, in a mirrored random order."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Generic, TypeVar

from fgbench.measurement.clock import Clock, Reading
from fgbench.measurement.schedule import mirrored_rounds

WARM_UP_WINDOW = 4  # rounds in each of the two samples that have to agree
WARM_UP_TOLERANCE = 0.10  # pyperf's: medians of the two samples this near
WARM_UP_MAX_ROUNDS = 24
MINIMUM_ROUNDS = 6  # of a process; below, the order-statistic interval does not exist at 95 %
LEAD_IN_STEPS = 1  # untimed steps before a block: its caches hold its own arm's data, not the last one's


K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Arm(Generic[K]):
    """One thing to time.

    Attributes:
        key: what it is known by, unique among the arms: a name, or any value that can be hashed.
        step: a step of a method, the base, or the A/A repeat.
        steps: in a timed block; arms of any speed then get blocks of about the same length.
        cycle: after how many steps what they do comes around again: blocks hold whole cycles.
    """

    key: K
    step: Callable[[], object]
    steps: int = 1
    cycle: int = 1


@dataclass(frozen=True)
class Sample(Generic[K]):
    """One timed block.

    Attributes:
        arm: key of the arm.
        round: index of the round, counted through warm-up and measurement apart.
        position: place within the round, from 0.
        warm_up: taken before the arms were steady; kept, never part of an estimate.
        steps: steps in the block.
        seconds: host seconds per step.
        device_seconds: device seconds per step, None without a device queue.
        enqueue_seconds: host seconds per step until the last was queued, None likewise.
        sm_clock_mhz, power_watts, temperature_celsius, throttle: of the device when all of it was queued.
    """

    arm: K
    round: int
    position: int
    warm_up: bool
    steps: int
    seconds: float
    device_seconds: float | None = None
    enqueue_seconds: float | None = None
    sm_clock_mhz: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None
    throttle: str | None = None


def with_block(arm: Arm[K], clock: Clock, block_seconds: float, minimum: int) -> Arm[K]:
    """The arm with as many steps as make its block last at least `block_seconds`, by doubling.

    Args:
        arm: called at least once before, so that nothing is compiled now.
        clock: what times it.
        block_seconds: long enough for the clock's resolution and overhead.
        minimum: steps at the least, or a cycle where that is more.
    """
    arm = replace(arm, steps=_whole_cycles(minimum, arm.cycle))
    while _reading(arm, clock).seconds < block_seconds:
        arm = replace(arm, steps=2 * arm.steps)
    return arm


def with_fitting_block(arm: Arm[K], clock: Clock, share: float, shortest: float, longest: float) -> Arm[K]:
    """The arm with as many steps as fit `share` together with its lead-in, within limits; one at least.

    Args:
        arm: with a block that a clock can time, as `with_block` gives; timed once more here.
        clock: what times it.
        share: seconds that the arm has in a round.
        shortest: seconds of a block that the clock needs, whatever the share is.
        longest: seconds of a block that are of use.
    """
    seconds = _reading(arm, clock).seconds / arm.steps
    fitting = min(share / seconds - LEAD_IN_STEPS, longest / seconds)
    steps = max(1, math.ceil(shortest / seconds), int(fitting))
    return replace(arm, steps=_whole_cycles(steps, arm.cycle))


def _whole_cycles(steps: int, cycle: int) -> int:
    return math.ceil(steps / cycle) * cycle


def run_rounds(
    arms: Sequence[Arm[K]], clock: Clock, rounds: int, rng: random.Random, *, warm_up: bool = False
) -> Iterator[list[Sample[K]]]:
    """Time every arm once a round; gives a round's samples when the round is done."""
    for index, order in enumerate(mirrored_rounds(arms, rounds, rng)):
        yield [_sample(arm, clock, index, position, warm_up) for position, arm in enumerate(order)]


def warm_up(
    arms: Sequence[Arm[K]], clock: Clock, rng: random.Random, max_seconds: float
) -> Iterator[list[Sample[K]]]:
    """Rounds until every arm is steady: the medians of two successive windows agree within a tenth.

    Ends also after `WARM_UP_MAX_ROUNDS` or `max_seconds` of timed work, whichever is first, though
    never before one window is full.
    """
    history: dict[K, list[float]] = {arm.key: [] for arm in arms}
    spent = 0.0
    for samples in run_rounds(arms, clock, WARM_UP_MAX_ROUNDS, rng, warm_up=True):
        yield samples
        for sample in samples:
            history[sample.arm].append(sample.seconds)
        spent += round_seconds(samples)
        full = len(next(iter(history.values()))) >= WARM_UP_WINDOW
        if steady(history.values()) or (full and spent > max_seconds):
            return


def round_seconds(samples: Sequence[Sample[K]]) -> float:
    """About how long a round took, lead-in steps included."""
    return sum(sample.seconds * (sample.steps + LEAD_IN_STEPS) for sample in samples)


def steady(histories: Iterable[Sequence[float]]) -> bool:
    """Whether each history's last window and the one before have medians within the tolerance."""
    return all(
        len(seconds) >= 2 * WARM_UP_WINDOW
        and abs(
            median(seconds[-WARM_UP_WINDOW:]) / median(seconds[-2 * WARM_UP_WINDOW : -WARM_UP_WINDOW]) - 1
        )
        <= WARM_UP_TOLERANCE
        for seconds in histories
    )


def _sample(arm: Arm[K], clock: Clock, index: int, position: int, warm_up: bool) -> Sample[K]:
    _repeat(arm.step, LEAD_IN_STEPS)
    reading = _reading(arm, clock)

    def a_step(amount: float | None) -> float | None:
        return None if amount is None else amount / arm.steps

    return Sample(
        arm.key,
        index,
        position,
        warm_up,
        arm.steps,
        reading.seconds / arm.steps,
        a_step(reading.device_seconds),
        a_step(reading.enqueue_seconds),
        reading.state.sm_clock_mhz,
        reading.state.power_watts,
        reading.state.temperature_celsius,
        reading.state.throttle,
    )


def _reading(arm: Arm[K], clock: Clock) -> Reading:
    return clock.time(lambda: _repeat(arm.step, arm.steps))


def _repeat(step: Callable[[], object], times: int) -> None:
    for _ in range(times):
        step()
