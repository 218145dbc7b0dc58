"""The training loop: steps on the clock, evaluation off it, one method or several taking turns."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from torch import nn

from fgbench.datasets import Dataset
from fgbench.measurement.clock import Clock
from fgbench.methods import Batch, Loss, Step
from fgbench.training.batches import BatchOrder
from fgbench.training.randomness import OwnRandomness

EVALUATION_BATCH = 1024
STEPS_PER_READING = 32  # batches gathered ahead of one reading of the clock


@dataclass(frozen=True)
class Point:
    """One evaluation while training.

    Attributes:
        iteration: steps taken so far.
        train_seconds: spent in steps, evaluation and loading excluded.
        evaluation_seconds: spent in evaluations, this one included.
        train_loss: of the last minibatch, before its update; NaN before the first.
        validation_loss: mean over the held-out set.
        validation_accuracy: share of the held-out set classified rightly.
    """

    iteration: int
    train_seconds: float
    evaluation_seconds: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float

    @property
    def finite(self) -> bool:
        """Whether training is still going somewhere."""
        started = self.iteration > 0
        return math.isfinite(self.validation_loss) and (not started or math.isfinite(self.train_loss))

    def ends(self, max_seconds: float) -> bool:
        """Whether the run ends here."""
        return not self.finite or self.train_seconds >= max_seconds


class Trainee:
    """One method in training: a model, its step and its learning rate, advanced a stretch at a time."""

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        loss: Loss,
        learning_rate: float,
        data: Dataset,
        order: BatchOrder,
        clock: Clock,
    ) -> None:
        self.model, self.step, self.loss, self.learning_rate = model, step, loss, learning_rate
        self.data, self.order, self.clock = data, order, clock
        self.iteration = 0
        self.train_seconds = self.evaluation_seconds = 0.0
        self._last_loss: torch.Tensor | None = None
        self._randomness = OwnRandomness(order.seed, data.train_x.device)

    def advance(self, steps: int) -> None:
        """Take `steps` training steps; only they are on the clock."""
        until = self.iteration + steps
        while self.iteration < until:
            batches = self.order.batches(
                self.data, self.iteration, min(STEPS_PER_READING, until - self.iteration)
            )
            with self._randomness.in_force():
                self.train_seconds += self.clock.time(partial(self._steps, batches)).seconds
            self.iteration += len(batches)

    def _steps(self, batches: list[Batch]) -> None:
        for batch in batches:
            self._last_loss = self.step(batch, self.learning_rate)

    def evaluate(self) -> Point:
        """Loss and accuracy on the held-out set, off the training clock."""
        start = perf_counter()
        loss, accuracy = evaluate(self.model, self.loss, self.data)
        train_loss = math.nan if self._last_loss is None else float(self._last_loss)
        self.evaluation_seconds += perf_counter() - start
        return Point(self.iteration, self.train_seconds, self.evaluation_seconds, train_loss, loss, accuracy)


@torch.no_grad()
def evaluate(model: nn.Module, loss: Loss, data: Dataset) -> tuple[float, float]:
    """Mean loss and accuracy over the held-out set, in evaluation mode."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=data.validation_y.device)
    right = torch.zeros((), dtype=torch.int64, device=data.validation_y.device)
    for x, y in zip(
        data.validation_x.split(EVALUATION_BATCH), data.validation_y.split(EVALUATION_BATCH), strict=True
    ):
        output = model(x)
        total += loss(output, y).double() * len(y)
        right += (output.argmax(dim=1) == y).sum()
    model.train(was_training)
    count = len(data.validation_y)
    return float(total) / count, int(right) / count


def take_turns(
    trainees: Mapping[str, Trainee], every: int, max_seconds: float, rng: random.Random
) -> Iterator[tuple[str, Point | Exception]]:
    """Train all until each has had its seconds, in turns of `every` steps, so that drift hits all alike.

    Gives (name, point) at each evaluation, the first at iteration 0. A trainee whose loss is no
    longer finite ends with the point that shows it, one that raises with its exception.

    Args:
        trainees: by name.
        every: steps between evaluations, the same grid for all.
        max_seconds: training seconds for each.
        rng: of the order within a turn.
    """
    alive = dict(trainees)
    steps = 0
    while alive:
        for name in rng.sample(list(alive), len(alive)):
            try:
                alive[name].advance(steps)
                outcome: Point | Exception = alive[name].evaluate()
            except Exception as error:
                outcome = error
            yield name, outcome
            if isinstance(outcome, Exception) or outcome.ends(max_seconds):
                del alive[name]
        steps = every
