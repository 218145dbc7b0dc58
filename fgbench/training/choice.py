"""Choose the best whole run of a learning-rate search: the one that reaches the targets first.

A whole run is one that had the full budget of a measured run, unlike the search's short trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fgbench.training.loop import Point
from fgbench.training.target import Target, TimeToTarget, lowest_held, targets_asked

BY_LOSS = "loss at the end"


@dataclass(frozen=True)
class WholeRun:
    """A trial that had the budget of a measured run.

    Attributes:
        optimizer: the optimiser's spec.
        learning_rate: the learning rate at the first step.
        loss: validation loss at the end; infinite where the run diverged.
        points: the evaluations, those past the budget too.
    """

    optimizer: str
    learning_rate: float
    loss: float
    points: Sequence[Point]

    @property
    def losses(self) -> list[float]:
        """The validation loss at each evaluation."""
        return [point.validation_loss for point in self.points]

    def to(self, target: Target) -> TimeToTarget:
        """When it reached a target."""
        names = ("train_seconds", "iteration", "validation_loss", "validation_accuracy")
        columns = ([getattr(point, name) for point in self.points] for name in names)
        return target.reached_by(*columns, further=sum(point.past_budget for point in self.points))


@dataclass(frozen=True)
class Goal:
    """The targets that a run was asked for.

    Attributes:
        losses: target losses separated by commas, each as in `fgbench.training.target.loss_asked`.
        accuracies: target accuracies separated by commas; may be empty.
        reference: the method whose runs `backprop-best` and shares are computed from.
        chance: the loss of a model that has learned nothing.
    """

    losses: str = "auto"
    accuracies: str = ""
    reference: str = "backprop"
    chance: float = math.inf

    def targets(self, found: Mapping[str, Sequence[WholeRun]]) -> list[Target]:
        """The targets as numbers; those that were not given as numbers follow from the search's whole runs.

        Each method is represented by its run that held the lowest loss. `auto` is the lowest loss that all
        methods held, `backprop-best` the lowest that the reference held, and a share a point on its way
        there. A target that cannot be computed is left out.
        """
        best = {
            spec: min((run.losses for run in runs), key=lowest_held) for spec, runs in found.items() if runs
        }
        reference = [best[self.reference]] if self.reference in best else []
        return targets_asked(self.losses, self.accuracies, list(best.values()), reference, self.chance)


@dataclass(frozen=True)
class Choice:
    """A method's best whole run, and the reason for it.

    Attributes:
        run: the chosen run.
        by: what decided, in words: the time to which targets, or the loss at the end.
        scored: each whole run, how many targets it reached, and the sum of the seconds to these.
    """

    run: WholeRun
    by: str
    scored: Sequence[tuple[WholeRun, int, float | None]]


def choose(runs: Sequence[WholeRun], targets: Sequence[Target]) -> Choice:
    """The whole run that reached the most targets; among equals, the one that was fastest.

    The seconds to all targets that a run reached are added up. Where runs are still equal, as when none
    reached a target, the lower loss at the end decides, and then the smaller learning rate.
    """
    scored = []
    for run in runs:
        reached = (own for target in targets if (own := run.to(target)).reached)
        times = [own.seconds for own in reached]
        scored.append((run, len(times), sum(times) if times else None))
    best = min(scored, key=lambda s: (-s[1], s[2] or 0.0, s[0].loss, s[0].learning_rate))
    by = f"time to {', '.join(map(str, targets))}" if best[1] else BY_LOSS
    return Choice(best[0], by, scored)
