"""Learning-rate search, with the same grid, the same seconds and the same rules for every method."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

DECADES = tuple(10.0**exponent for exponent in range(-5, 1))
MAX_EXTENSIONS = 4  # decades that may be added while the best rate is at an edge of the grid
WHOLE_RUNS, MAX_WHOLE_RUNS = 2, 4
TRIAL_SHARE = 0.2  # a short trial's seconds as a share of a whole run's
TYPICAL_RUNS = (len(DECADES) + 2) * TRIAL_SHARE + WHOLE_RUNS  # what a search costs, in whole runs


@dataclass(frozen=True)
class Trial:
    """One learning rate that was tried.

    Attributes:
        learning_rate: the rate.
        loss: validation loss at the end; infinite where training diverged.
        full: whether it had the seconds of a whole run, rather than those of a short trial.
    """

    learning_rate: float
    loss: float
    full: bool


def search(trial: Callable[[float, bool], float]) -> list[Trial]:
    """Find learning rates worth a whole run: short trials on a grid, then whole runs of the best of them.

    Short trials are made on a grid of decades, which is extended while its best rate is at an edge, and then
    half a decade to either side of the best. The best two rates get whole runs, between which the caller
    chooses. Forward gradients can look best in a short trial at a rate that diverges later: while every whole
    run ends worse than the best short trial did, another one follows at half a decade less.

    Args:
        trial: takes a learning rate and whether to train for a whole run's seconds; gives the validation
            loss at the end.

    Returns:
        The whole runs.
    """

    def tried(rate: float, full: bool = False) -> Trial:
        return Trial(rate, trial(rate, full), full)

    short = [tried(rate) for rate in DECADES]
    for _ in range(MAX_EXTENSIONS):
        edge = _beyond_edge(short)
        if edge is None:
            break
        short.append(tried(edge))
    centre = best(short).learning_rate
    short += [tried(_shifted(centre, half_decades)) for half_decades in (-1, 1)]
    first, *others = sorted(short, key=_rank)[:WHOLE_RUNS]
    candidates = [first, *(other for other in others if math.isfinite(other.loss))]
    whole = [tried(candidate.learning_rate, full=True) for candidate in candidates]
    while best(whole).loss > first.loss and len(whole) < MAX_WHOLE_RUNS:
        whole.append(tried(_shifted(min(t.learning_rate for t in whole), -1), full=True))
    return whole


def best(trials: list[Trial]) -> Trial:
    """The trial of the lowest loss; among equals, that of the smallest learning rate."""
    return min(trials, key=_rank)


def _rank(trial: Trial) -> tuple[float, float]:
    return trial.loss, trial.learning_rate


def _beyond_edge(tried: list[Trial]) -> float | None:
    rates = [t.learning_rate for t in tried]
    at = best(tried).learning_rate
    if at == min(rates):
        return _shifted(at, -2)
    return _shifted(at, 2) if at == max(rates) else None


def _shifted(rate: float, half_decades: int) -> float:
    """The rate that is so many half decades further, rounded to three digits."""
    place = round(2 * math.log10(rate)) + half_decades
    return float(f"{10 ** (place / 2):.3g}")
