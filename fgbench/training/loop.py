"""The training loop: steps are timed and evaluations are not; several methods take turns."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import nn

from fgbench.datasets import Dataset
from fgbench.measurement.clock import Clock
from fgbench.methods import Batch, Loss, Step
from fgbench.training.batches import BatchOrder
from fgbench.training.beginning import Beginning
from fgbench.training.decay import STAYS, Decay
from fgbench.training.randomness import OwnRandomness

EVALUATION_BATCH = 1024  # most samples in a batch of an evaluation
EVALUATION_PREDICTIONS = 8192  # most predictions in that batch; a sample of text has many
# Attributes of a trainee, which say how far it has come; they are also the keys of a snapshot.
PROGRESS = ("iteration", "train_seconds", "evaluation_seconds", "last_loss", "lowest", "lowest_at", "further")
STRETCH = 16  # fewest steps between evaluations, because each evicts the next step's data from the caches
CLOSENESS = 10  # the first evaluations are spaced a tenth of the steps taken so far
WARM_UP_ROUNDS, WARM_UP_STEPS = 2, 2  # evaluations in a warm-up, and steps before each
STEPS_PER_READING = 32  # so many batches are gathered before one reading of the clock


@dataclass(frozen=True)
class Point:
    """One evaluation while training.

    Attributes:
        iteration: steps taken so far.
        train_seconds: seconds spent in steps, without evaluation and loading.
        evaluation_seconds: seconds spent in evaluations, including this one.
        train_loss: loss of the last minibatch, before its update; NaN before the first step.
        validation_loss: mean over the held-out set, in nats per sample, or per token for text.
        validation_accuracy: the share of its samples, or tokens, that are predicted correctly.
        past_budget: whether the budget was spent at an evaluation before, so that this one only shows whether
            a target that was reached by then was held.
    """

    iteration: int
    train_seconds: float
    evaluation_seconds: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    past_budget: bool = False

    @property
    def finite(self) -> bool:
        """Whether the losses are finite, so that training can go on."""
        started = self.iteration > 0
        return math.isfinite(self.validation_loss) and (not started or math.isfinite(self.train_loss))


@dataclass(frozen=True)
class Budget:
    """The limits of a training job; it ends at the first one that it reaches.

    Attributes:
        seconds: the most seconds of training, without evaluation.
        iterations: the most steps; None for no limit.
        queries: the most evaluations of the model, where a step counts as the method's `queries`; None for no
            limit.
        patience: the most epochs without a new lowest validation loss; None for no limit.
    """

    seconds: float
    iterations: int | None = None
    queries: int | None = None
    patience: int | None = None

    def steps(self, queries_a_step: int) -> float:
        """The most steps that a method may take; infinite if only the seconds are limited."""
        limits = [self.iterations, None if self.queries is None else self.queries // queries_a_step]
        return max(1, min((limit for limit in limits if limit is not None), default=math.inf))

    def spent(self, seconds: float, iteration: int, most_steps: float) -> float:
        """The share spent of the nearest limit, by a job whose method has `most_steps`."""
        return min(max(seconds / self.seconds, iteration / most_steps), 1.0)

    def share(self, part: float) -> Budget:
        """A budget with this part of the seconds, iterations and queries, and the same patience."""
        iterations = None if self.iterations is None else math.ceil(part * self.iterations)
        queries = None if self.queries is None else math.ceil(part * self.queries)
        return Budget(part * self.seconds, iterations, queries, self.patience)


@dataclass(frozen=True)
class Grid:
    """The steps at which every method of a group is evaluated: close together at first, then evenly spaced.

    Evaluations are spaced a tenth of the steps taken so far, but at least `first` and at most `every`, which
    takes precedence. The times of methods that reach the target early and of those that reach it late are
    thus measured with the same relative resolution.
    """

    every: int
    first: int = STRETCH

    def after(self, iteration: int) -> int:
        """Steps from the evaluation at `iteration` to the next."""
        return max(1, min(self.every, max(self.first, iteration // CLOSENESS)))

    def close_points(self) -> int:
        """How many evaluations come before their spacing becomes constant."""
        count = at = 0
        while (distance := self.after(at)) < self.every:
            at, count = at + distance, count + 1
        return count


@dataclass(frozen=True)
class Rate:
    """A learning rate, and how it decays over a job of at most `steps` steps."""

    initial: float
    decay: Decay = STAYS
    steps: float = math.inf

    def at(self, iteration: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.initial * self.decay.at(iteration, self.steps)


class Trainee:
    """One method in training: a model, its step and its learning rate, advanced some steps at a time.

    `most_steps` is how many steps its budget allows, `patience` how many may pass without a lower validation
    loss.
    """

    def __init__(
        self,
        model: nn.Module,
        step: Step,
        loss: Loss,
        rate: Rate,
        data: Dataset,
        order: BatchOrder,
        clock: Clock,
        most_steps: float = math.inf,
        patience: float = math.inf,
    ) -> None:
        self.model, self.step, self.loss, self.rate = model, step, loss, rate
        self.data, self.order, self.clock = data, order, clock
        self.most_steps, self.patience = most_steps, patience
        self.iteration = self.lowest_at = self.further = 0
        self.lowest = math.inf
        self.train_seconds = self.evaluation_seconds = 0.0
        self.last_loss: torch.Tensor | None = None
        self._randomness = OwnRandomness(order.seed, data.train_x.device)

    def warm_up(self) -> None:
        """Take a few steps and evaluations, then restore everything, clocks and random numbers included.

        Tracing, compilation, capture and first allocations are then done, on the very step that is trained.
        Training goes on bit for bit as it would have without the warm-up.
        """
        self.step.get_ready(self.order.batches(self.data, self.iteration, 1)[0])
        beginning, randomness, before = Beginning(self.model, self.step), self._randomness.state(), vars(self)
        before = {name: before[name] for name in ("most_steps", *PROGRESS)}
        self.most_steps = math.inf  # a warm-up may take more steps than the budget has left
        for _ in range(WARM_UP_ROUNDS):
            self.advance(WARM_UP_STEPS)
            self.evaluate()
        beginning.put_back()
        self._randomness.restore(randomness)
        vars(self).update(before)

    def advance(self, steps: int) -> None:
        """Take `steps` training steps, or as many as the budget has left; only they are timed.

        All are taken where `further` is not 0, as the budget is spent then.
        """
        until = self.iteration + steps if self.further else int(min(self.iteration + steps, self.most_steps))
        while self.iteration < until:
            batches = self.order.batches(
                self.data, self.iteration, min(STEPS_PER_READING, until - self.iteration)
            )
            rates = [self.rate.at(i) for i in range(self.iteration, self.iteration + len(batches))]
            with self._randomness.in_force():
                self.train_seconds += self.clock.time(partial(self._steps, batches, rates)).seconds
            self.iteration += len(batches)

    def _steps(self, batches: Sequence[Batch], rates: Sequence[float]) -> None:
        for batch, rate in zip(batches, rates, strict=True):
            self.last_loss = self.step(batch, rate)

    def evaluate(self) -> Point:
        """Loss and accuracy on the held-out set; this does not count as training time."""
        start = perf_counter()
        loss, accuracy = evaluate(self.model, self.loss, self.data)
        train_loss = math.nan if self.last_loss is None else float(self.last_loss)
        self.evaluation_seconds += perf_counter() - start
        if loss < self.lowest:
            self.lowest, self.lowest_at = loss, self.iteration
        spent = self.train_seconds, self.evaluation_seconds
        return Point(self.iteration, *spent, train_loss, loss, accuracy, self.further > 0)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on, as tensors and plain values."""
        optimizer = self.step.optimizer
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer.state_dict() if optimizer else None,
            "step": self.step.state(),
            "generators": [generator.get_state() for generator in self.step.generators()],
            "randomness": self._randomness.state(),
            **{name: getattr(self, name) for name in PROGRESS},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that `state` gave."""
        self.model.load_state_dict(state["model"])
        if self.step.optimizer:
            self.step.optimizer.load_state_dict(state["optimizer"])
        self.step.load_state(state["step"])
        for generator, own in zip(self.step.generators(), state["generators"], strict=True):
            generator.set_state(own)
        self._randomness.restore(state["randomness"])
        # A snapshot of an older fgbench has none of these three.
        progress = {"lowest": math.inf, "lowest_at": state["iteration"], "further": 0, **state}
        vars(self).update({name: progress[name] for name in PROGRESS})


@torch.no_grad()
def evaluate(model: nn.Module, loss: Loss, data: Dataset) -> tuple[float, float]:
    """Mean loss and accuracy over the held-out set, in evaluation mode; logits are [..., classes]."""
    was_training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=data.validation_y.device)
    right = torch.zeros((), dtype=torch.int64, device=data.validation_y.device)
    count = data.validation_y.numel()
    size = max(1, min(EVALUATION_BATCH, EVALUATION_PREDICTIONS * len(data.validation_y) // count))
    for x, y in zip(data.validation_x.split(size), data.validation_y.split(size), strict=True):
        output = model(x)
        total += loss(output, y).double() * y.numel()
        right += (output.argmax(dim=-1) == y).sum()
    model.train(was_training)
    return float(total) / count, int(right) / count


def _ends(point: Point, trainee: Trainee, max_seconds: float, further: int) -> bool:
    """Whether a trainee ends with this point; counts the evaluations since its budget was spent."""
    waited = not point.past_budget and point.iteration - trainee.lowest_at >= trainee.patience
    if waited or not point.finite:
        return True
    if point.train_seconds >= max_seconds or point.iteration >= trainee.most_steps:
        trainee.further += 1
    return trainee.further > further


def take_turns(
    trainees: Mapping[str, Trainee],
    grid: Grid,
    max_seconds: float,
    rng: random.Random,
    *,
    further: int = 0,
    begun: bool = False,
    after_turn: Callable[[Sequence[str]], None] = lambda alive: None,
) -> Iterator[tuple[str, Point | Exception]]:
    """Train all until each has used up its budget; in a turn, each trains up to its next evaluation.

    Because they take turns, a slow drift of the machine affects all of them alike.

    Gives (name, point) at each evaluation, the first at iteration 0. A trainee whose loss is no longer finite
    ends with the point that shows it; one that raises ends with (name, exception).

    Args:
        trainees: the trainees, by name.
        grid: the steps at which all of them are evaluated.
        max_seconds: the training seconds of each.
        rng: decides the order within a turn.
        further: how many evaluations follow the one at which the budget is spent (`Point.past_budget`).
        begun: whether the trainees have already been evaluated at the step where they stand.
        after_turn: is called after each turn with the names of the trainees that go on.
    """
    alive = dict(trainees)
    while alive:
        at = max(trainee.iteration for trainee in alive.values())
        steps = grid.after(at) if begun else 0
        for name in rng.sample(list(alive), len(alive)):
            try:
                alive[name].advance(steps)
                outcome: Point | Exception = alive[name].evaluate()
            except Exception as error:
                outcome = error
            yield name, outcome
            if isinstance(outcome, Exception) or _ends(outcome, alive[name], max_seconds, further):
                del alive[name]
        begun = True
        after_turn(list(alive))
