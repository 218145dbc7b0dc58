"""The schedule: mirrored, balanced, random."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from fgbench.measurement.schedule import mirrored_rounds

ARMS = ["base", "a", "b", "aa"]


@pytest.mark.parametrize("arms", [1, 2, 3, 5])
def test_over_a_pair_of_rounds_every_arm_is_in_the_middle_on_average(arms):
    rounds = list(mirrored_rounds(range(arms), 10, random.Random(0)))
    for first, second in zip(rounds[::2], rounds[1::2], strict=True):
        for arm in range(arms):
            assert first.index(arm) + second.index(arm) == arms - 1


def test_every_round_holds_every_arm_once():
    assert all(sorted(r) == sorted(ARMS) for r in mirrored_rounds(ARMS, 7, random.Random(0)))


def test_there_are_as_many_rounds_as_asked_for():
    assert [len(list(mirrored_rounds(ARMS, n, random.Random(0)))) for n in (0, 1, 6, 7)] == [0, 1, 6, 7]


def test_orders_come_from_the_seed_alone():
    def orders(seed: int) -> list[list[str]]:
        return list(mirrored_rounds(ARMS, 20, random.Random(seed)))

    assert orders(1) == orders(1) != orders(2)


def test_every_arm_comes_first_equally_often():
    """6000 pairs of rounds over 4 arms: 1500 firsts each in the leading rounds, within 5 deviations."""
    rounds = list(mirrored_rounds(ARMS, 12_000, random.Random(3)))
    firsts = Counter(r[0] for r in rounds[::2])
    assert all(abs(firsts[arm] - 1500) < 5 * (6000 * 0.25 * 0.75) ** 0.5 for arm in ARMS), firsts


def test_changing_a_round_does_not_change_the_next():
    rounds = mirrored_rounds(ARMS, 2, random.Random(0))
    first = next(rounds)
    mirrored = first[::-1]
    first.clear()
    assert next(rounds) == mirrored
