"""Schedules: which arm runs when, so that drift and position fall on all arms alike."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def mirrored_rounds(arms: Sequence[T], rounds: int, rng: random.Random) -> Iterator[list[T]]:
    """Rounds over all arms: a random order, then its mirror image, then a new random order.

    Over each pair of rounds every arm's mean position is the middle, so that a linear drift cancels
    (ABBA), and the random order keeps any effect of being second from always hitting the same arm.
    """
    order: list[T] = []
    for index in range(rounds):
        order = order[::-1] if index % 2 else rng.sample(list(arms), len(arms))
        yield list(order)
