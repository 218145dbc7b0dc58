"""Pacing: find the steps at which all methods of a group are evaluated, from the speed of each method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fgbench.training.loop import STRETCH, Grid
from fgbench.training.search import TRIAL_SHARE

POINTS = 60  # most evaluations of the quickest method within its budget
LEAST_POINTS = 10  # fewest evaluations of the slowest method, if it takes enough steps
EVALUATION_SHARE = 0.25  # evaluation's seconds as a share of training's, for the quickest method
JUDGED_POINTS = 3  # a trial is judged by the mean of its last evaluations


@dataclass(frozen=True)
class Pace:
    """A method's seconds for one training step and for one evaluation, and the most steps it may take."""

    step: float
    evaluation: float
    most_steps: float = math.inf


def evaluation_grid(paces: Sequence[Pace], max_seconds: float, every: int | None = None) -> Grid:
    """The steps at which all methods are evaluated.

    That is often enough for a smooth curve, seldom enough to be a small part of the work, and still a few
    times in the run of the method that takes the fewest steps. Evaluations are closer at the start, as far
    as that takes only a part of the run.
    """
    every = every or _even_steps(paces, max_seconds)
    slowest_evaluation = max(p.evaluation for p in paces)
    first = STRETCH
    while (
        first < every
        and Grid(every, first).close_points() * slowest_evaluation > EVALUATION_SHARE * max_seconds
    ):
        first *= 2
    return Grid(every, min(first, every))


def _even_steps(paces: Sequence[Pace], max_seconds: float) -> int:
    steps = [min(max_seconds / pace.step, pace.most_steps) for pace in paces]
    smooth = math.ceil(max(steps) / POINTS)
    quickest = min(p.step for p in paces)
    cheap = math.ceil(max(p.evaluation for p in paces) / (EVALUATION_SHARE * quickest))
    return max(1, min(max(smooth, cheap), int(min(steps) / LEAST_POINTS)))


def short_grid(paces: Sequence[Pace], max_seconds: float, every: int) -> Grid:
    """The evenly spaced steps at which short trials are evaluated.

    The method that takes the fewest steps is still evaluated once more than its trial is judged by
    (`JUDGED_POINTS`), so that every trial is judged over the same number of steps.
    """
    fewest = min(min(max_seconds / pace.step, pace.most_steps) for pace in paces)
    distance = max(1, min(every, int(fewest * TRIAL_SHARE / (JUDGED_POINTS + 1))))
    return Grid(distance, distance)
