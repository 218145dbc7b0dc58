"""Blocks of a GPU fit into the budget, on a scripted clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fgbench.measurement.interleave import MINIMUM_ROUNDS, WARM_UP_WINDOW
from fgbench.running.arms import BLOCK_SECONDS, SHORTEST_BLOCK, WARM_UP_SHARE, timed_rounds, with_blocks
from tests.builders import FakeClock, ScriptedArm, steady_arm

GPU: Any = SimpleNamespace(device=torch.device("cuda:0"))
A_PROCESS = 45.0 * 0.6 / 5  # of the default budget


def blocks(made: list[ScriptedArm], clock: FakeClock, seconds: float = A_PROCESS) -> list[float]:
    """How long the blocks of steady arms are."""
    arms = with_blocks([arm.arm() for arm in made], GPU, clock, seconds)
    return [arm.steps * scripted.cost(clock, 10**6) for arm, scripted in zip(arms, made, strict=True)]


@pytest.mark.parametrize("step", [2e-5, 1e-3, 8e-3])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_wanted_rounds_and_a_whole_warm_up_fit_into_the_seconds_of_a_process(count, step):
    clock, rounds, warm_up = FakeClock(), [], []

    # Unlike each other, as a base and its methods are.
    arms = [steady_arm(str(i), clock, step * (1 + i / 2)).arm() for i in range(count)]
    for samples in timed_rounds(with_blocks(arms, GPU, clock, A_PROCESS), clock, A_PROCESS, random.Random(0)):
        (warm_up if samples[0].warm_up else rounds).append(samples)
    assert clock.now <= 1.1 * A_PROCESS
    assert len(rounds) >= MINIMUM_ROUNDS
    if count * step <= 0.032:  # beyond, blocks are as short as the clock bears and are still too many
        assert len(warm_up) == 2 * WARM_UP_WINDOW, "it ends because arms are steady, not because time is up"
    lengths = [s.seconds * s.steps for samples in rounds for s in samples]
    assert 0.999 * SHORTEST_BLOCK <= min(lengths) <= max(lengths) <= 1.001 * BLOCK_SECONDS["cuda"]


def test_blocks_are_as_long_as_the_share_up_to_a_limit_and_never_shorter_than_the_clock_needs():
    clock = FakeClock()
    a_round = WARM_UP_SHARE * A_PROCESS / (2 * WARM_UP_WINDOW)
    for count in (2, 4):
        for length in blocks([steady_arm(str(i), clock, 1e-4) for i in range(count)], clock):
            assert length == pytest.approx(a_round / count, rel=0.02)
    assert blocks([steady_arm("a", clock, 1e-4)], clock, 600.0) == [pytest.approx(0.2, rel=0.01)]
    assert blocks([steady_arm("a", clock, 1e-4)], clock, 0.01) == [pytest.approx(0.02, rel=0.01)]
    assert blocks([steady_arm("a", clock, 3.0)], clock) == [3.0], "one step at least"


@pytest.mark.parametrize(
    "slow",
    [
        lambda clock, _call: clock.now < 0.1,  # the device's clock has yet to rise
        lambda _clock, call: call < 1,  # memory is allocated in the second call
    ],
)
def test_a_slow_beginning_does_not_make_blocks_too_short(slow: Callable[[FakeClock, int], bool]):
    clock = FakeClock()
    made = [ScriptedArm(str(i), clock, lambda c, n: 5e-2 if slow(c, n) else 1e-4) for i in range(4)]
    assert min(blocks(made, clock)) >= SHORTEST_BLOCK


def test_a_cpus_blocks_are_what_they_were_whatever_the_seconds():
    problem: Any = SimpleNamespace(device=torch.device("cpu"))
    for seconds in (0.01, 5.4, 600.0):
        clock = FakeClock()
        made = with_blocks([steady_arm("a", clock, 3e-3).arm()], problem, clock, seconds)
        assert [arm.steps for arm in made] == [4]
