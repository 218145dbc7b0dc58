"""Targets: when a run reached a loss and held it, and how targets are computed from runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

AUTO, REFERENCE_BEST = "auto", "backprop-best"
WORDS = (AUTO, REFERENCE_BEST)
HOLD = 3  # a target counts as reached when so many evaluations in a row are at or below it
# Evaluations past a run's budget, so that a target can be reached up to its end. A slow method is evaluated
# ten times within its budget: without these, it would lose a fifth of it.
FURTHER = HOLD - 1
ROUNDING = 0.05  # the most of the way to a target that is given up by rounding it


@dataclass(frozen=True)
class TimeToTarget:
    """How long a run took to reach a target, or, if it never did (it is censored), how long it trained.

    Attributes:
        reached: whether it was at or below the target for `HOLD` evaluations in a row.
        seconds: training seconds at the first of these evaluations; at the run's end if it is censored.
        iterations: steps at the same evaluation.
        resolution: seconds between that evaluation and the one before it; None if the run is censored.
        first_hit_seconds: training seconds at the first evaluation at or below the target, whether it was
            held or not; None if there is none.
        first_hit_iterations: steps at that evaluation.
    """

    reached: bool
    seconds: float
    iterations: int
    resolution: float | None
    first_hit_seconds: float | None
    first_hit_iterations: int | None


@dataclass(frozen=True)
class Target:
    """What a run should reach: a validation loss (or less), or a validation accuracy (or more)."""

    loss: float | None = None
    accuracy: float | None = None

    def __str__(self) -> str:
        """The target in words."""
        return f"accuracy {self.accuracy:g}" if self.loss is None else f"loss {self.loss:g}"

    def reached_by(
        self,
        seconds: Sequence[float],
        iterations: Sequence[int],
        losses: Sequence[float],
        accuracies: Sequence[float],
        *,
        further: int = 0,
    ) -> TimeToTarget:
        """When a run reached it: training seconds, steps, loss and accuracy at each evaluation.

        `further` is as for `against_target`.
        """
        if self.loss is not None:
            return against_target(seconds, iterations, losses, self.loss, further)
        assert self.accuracy is not None
        # A target is reached from above: an accuracy is compared with its sign reversed.
        return against_target(seconds, iterations, [-a for a in accuracies], -self.accuracy, further)


def against_target(
    seconds: Sequence[float],
    iterations: Sequence[int],
    losses: Sequence[float],
    target: float,
    further: int = 0,
) -> TimeToTarget:
    """When a run reached the target.

    Args:
        seconds: training seconds at each evaluation, ascending.
        iterations: steps at each evaluation.
        losses: validation loss at each evaluation.
        target: the loss to reach.
        further: how many of the evaluations, the last ones, were past the budget: a target can be held there,
            and not reached.
    """
    below, within = [loss <= target for loss in losses], len(losses) - further
    first = next((i for i in range(within) if below[i]), None)
    holding = range(min(within, len(below) - HOLD + 1))
    held = next((i for i in holding if all(below[i : i + HOLD])), None)
    at = within - 1 if held is None else held
    return TimeToTarget(
        held is not None,
        seconds[at],
        iterations[at],
        None if held is None else seconds[at] - seconds[max(at - 1, 0)],
        None if first is None else seconds[first],
        None if first is None else iterations[first],
    )


def lowest_held(losses: Sequence[float]) -> float:
    """The lowest loss that a run reached and held; infinite for a run too short to hold any.

    With `FURTHER` evaluations past its budget, the run may have reached it with the last one in the budget.
    """
    windows = (losses[i : i + HOLD] for i in range(len(losses) - HOLD + 1))
    return min((max(w) for w in windows if all(math.isfinite(x) for x in w)), default=math.inf)


def common_target(runs: Sequence[Sequence[float]]) -> float | None:
    """The lowest loss that every run reached and held, rounded up to three digits.

    A run that never held a loss below its first one (it may have diverged) is left out, and will count as
    censored. None where all runs are left out, or where some run starts at or below the target.
    """
    held = [lowest for losses in runs if (lowest := lowest_held(losses)) < losses[0]]
    if not held:
        return None
    target = _rounded_up(max(held))
    # A run that starts at the target would reach it in no time.
    return None if any(target >= losses[0] for losses in runs) else target


def best_held(runs: Sequence[Sequence[float]]) -> float | None:
    """The median over runs of the lowest loss that each held, rounded up as by `_rounded_on_way`."""
    if not runs:
        return None
    ordered = sorted((lowest_held(losses), losses[0]) for losses in runs)
    middle, first = ordered[len(ordered) // 2]  # the upper median: a target that most runs reached
    return _rounded_on_way(middle, first - middle) if math.isfinite(middle) else None


def on_the_way(runs: Sequence[Sequence[float]], share: float, chance: float = math.inf) -> float | None:
    """The median over runs of the loss at which each has made a share of its way, rounded up.

    The way goes from the first loss, or from chance if that is lower, to the lowest loss that the run held,
    so that every target on it is better than chance. None where the median run did not get below its start.
    """
    places = []
    for losses in runs:
        start, best = min(losses[0], chance), lowest_held(losses)
        made = share * (start - best)
        places.append((start - made, made) if best < start else (math.inf, 0.0))
    middle, made = sorted(places)[len(places) // 2] if places else (math.inf, 0.0)  # the upper median
    # Rounding errors of binary fractions are not digits.
    return _rounded_on_way(round(middle, 12), made) if math.isfinite(middle) else None


def share_asked(asked: str) -> float | None:
    """The share in a target like `50%`, which the reference has to make of its way; None for other targets.

    Raises:
        ValueError: there is no number before the sign.
    """
    return float(asked[:-1]) / 100 if asked.endswith("%") else None


def loss_asked(
    asked: str,
    runs: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]],
    chance: float = math.inf,
) -> float | None:
    """The loss that one `--target-loss` stands for; None where it cannot be computed.

    A computed loss that is no better than chance is none, as it would be reached without learning.

    Args:
        asked: a number, one of `WORDS`, or a share as in `50%`.
        runs: the losses at the evaluations of every run.
        reference: the same for the runs of the reference alone.
        chance: the loss of a model that has learned nothing.
    """
    share = share_asked(asked)
    if share is not None:
        return on_the_way(reference, share, chance)
    if asked not in WORDS:
        return float(asked)
    found = common_target(runs) if asked == AUTO else best_held(reference)
    return None if found is None or found >= chance else found


def targets_asked(
    losses: str,
    accuracies: str,
    runs: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]],
    chance: float = math.inf,
) -> list[Target]:
    """The targets that were asked for, as numbers; one that cannot be computed is left out.

    Args:
        losses: target losses separated by commas, each as in `loss_asked`.
        accuracies: target accuracies separated by commas; may be empty.
        runs, reference, chance: as for `loss_asked`.
    """
    found = dict.fromkeys(loss_asked(asked, runs, reference, chance) for asked in losses.split(","))
    return [
        *(Target(loss=loss) for loss in found if loss is not None),
        *(Target(accuracy=float(asked)) for asked in dict.fromkeys(accuracies.split(",")) if asked),
    ]


def _rounded_on_way(value: float, way: float) -> float:
    """Rounded up to three digits, or to as many more as it takes to give up little of the way to it."""
    rounded = (_rounded_up(value, digits) for digits in range(3, 12))
    return next((r for r in rounded if way <= 0 or r - value <= ROUNDING * way), value)


def _rounded_up(value: float, digits: int = 3) -> float:
    if not math.isfinite(value) or value <= 0:
        return value
    exact = Decimal(repr(float(value)))  # decimals are never rounded below the value, and 1.1 stays 1.1
    return float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), ROUND_CEILING))
