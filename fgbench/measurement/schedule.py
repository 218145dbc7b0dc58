"""Schedules: the order in which arms run, so that drift and position affect all arms alike."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def mirrored_rounds(arms: Sequence[T], rounds: int, rng: random.Random) -> Iterator[list[T]]:
    """Rounds over all arms: a random order, then its mirror image, then a new random order.

    Over each pair of rounds every arm's mean position is the middle, so that a linear drift cancels (ABBA).
    As the order is random, an effect of running second does not always hit the same arm.
    """
    order: list[T] = []
    for index in range(rounds):
        order = order[::-1] if index % 2 else rng.sample(list(arms), len(arms))
        yield list(order)
