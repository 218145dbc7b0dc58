"""Take timed blocks, interleaved: every arm runs in every round, in a mirrored random order."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import median
from typing import Generic, Protocol, TypeVar

from fgbench.measurement.clock import Clock, Reading
from fgbench.measurement.schedule import mirrored_rounds

WARM_UP_WINDOW = 4  # rounds in each of the two samples that have to agree
WARM_UP_TOLERANCE = 0.10  # how far their medians may be apart, as in pyperf
WARM_UP_OVERLAP = 2  # Mann and Whitney's U of two windows that may be the same: less comes in 6 % of them
WARM_UP_MAX_ROUNDS = 24
MINIMUM_ROUNDS = 6  # in a process: with fewer there is no order-statistic interval at 95 %
LEAD_IN_STEPS = 1  # untimed steps before a block, so that caches hold the arm's own data


K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Arm(Generic[K]):
    """One thing to time.

    Attributes:
        key: identifies it among the arms: a name, or any value that can be hashed.
        step: takes a step of a method, of the base, or of the A/A repeat.
        steps: how many make a timed block, so that blocks of fast and slow arms are about equally long.
        cycle: after how many steps their kinds repeat; a block holds whole cycles.
    """

    key: K
    step: Callable[[], object]
    steps: int = 1
    cycle: int = 1


@dataclass(frozen=True)
class Sample(Generic[K]):
    """One timed block.

    Attributes:
        arm: the arm's key.
        round: index of the round; warm-up and measurement are counted separately.
        position: place within the round, from 0.
        warm_up: whether it belongs to the warm-up; it is then stored, but is part of no estimate.
        steps: how many steps the block has.
        seconds: host seconds per step.
        device_seconds: device seconds per step; None without a device queue.
        enqueue_seconds: host seconds per step until the last one was queued; None without a device queue.
        sm_clock_mhz, power_watts, temperature_celsius, throttle: the device's state when all was queued.
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


class Block(Protocol):
    """A timed block, as a sample of an arm or as a row that a worker reports."""

    @property
    def steps(self) -> int:
        """How many steps it has."""

    @property
    def seconds(self) -> float:
        """Seconds per step."""


def with_block(arm: Arm[K], clock: Clock, block_seconds: float, minimum: int) -> Arm[K]:
    """The arm with its steps doubled until a block lasts at least `block_seconds`.

    Args:
        arm: an arm that was called before, so that nothing is compiled now.
        clock: times the blocks.
        block_seconds: long enough for the clock's resolution and overhead.
        minimum: the least number of steps; it is raised to a whole cycle.
    """
    arm = replace(arm, steps=_whole_cycles(minimum, arm.cycle))
    while _reading(arm, clock).seconds < block_seconds:
        arm = replace(arm, steps=2 * arm.steps)
    return arm


def with_fitting_block(arm: Arm[K], clock: Clock, share: float, shortest: float, longest: float) -> Arm[K]:
    """The arm with as many steps as fit into `share` together with its lead-in, within limits; at least one.

    Args:
        arm: an arm with a block that the clock can time, as `with_block` gives; timed once more here.
        clock: times the block.
        share: seconds that the arm has in a round.
        shortest: least seconds of a block, as the clock needs them, whatever the share is.
        longest: most seconds of a block; a longer one would be of no use.
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
    """Time every arm once in every round; gives the samples of each round when it is done."""
    for index, order in enumerate(mirrored_rounds(arms, rounds, rng)):
        yield [_sample(arm, clock, index, position, warm_up) for position, arm in enumerate(order)]


def warm_up(
    arms: Sequence[Arm[K]], clock: Clock, rng: random.Random, max_seconds: float
) -> Iterator[list[Sample[K]]]:
    """Run rounds until every arm is steady: two successive windows agree within a tenth or their noise.

    The warm-up also ends after `WARM_UP_MAX_ROUNDS` or `max_seconds` of timed work, whichever comes first,
    but never before one window is full.
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


def round_seconds(samples: Sequence[Block]) -> float:
    """About how long a round took, lead-in steps included."""
    return sum(sample.seconds * (sample.steps + LEAD_IN_STEPS) for sample in samples)


def steady(histories: Iterable[Sequence[float]]) -> bool:
    """Whether the last two windows of every history agree."""
    return all(
        len(seconds) >= 2 * WARM_UP_WINDOW
        and _agree(seconds[-2 * WARM_UP_WINDOW : -WARM_UP_WINDOW], seconds[-WARM_UP_WINDOW:])
        for seconds in histories
    )


def _agree(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether two windows' medians are within the tolerance, or their ranks do not tell them apart.

    On a noisy machine medians of a few rounds are further apart by chance alone.
    """
    if abs(median(after) / median(before) - 1) <= WARM_UP_TOLERANCE:
        return True
    pairs = list(product(before, after))
    return min(sum(b < a for b, a in pairs), sum(b > a for b, a in pairs)) >= WARM_UP_OVERLAP


def _sample(arm: Arm[K], clock: Clock, index: int, position: int, warm_up: bool) -> Sample[K]:
    repeat(arm.step, LEAD_IN_STEPS)
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
    return clock.time(lambda: repeat(arm.step, arm.steps))


def repeat(step: Callable[[], object], times: int) -> None:
    """Take a step so many times."""
    for _ in range(times):
        step()
