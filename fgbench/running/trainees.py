"""Trainees: the methods of a group as jobs that are trained, all by the same protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fgbench import methods
from fgbench.measurement.clock import clock_for
from fgbench.plan import Config
from fgbench.running.arms import LEARNING_RATE
from fgbench.running.matched import Matched
from fgbench.training.decay import decay_of
from fgbench.training.loop import STRETCH, Budget, Grid, Rate, Trainee
from fgbench.training.pacing import Pace

PACED_STEPS = 3


@dataclass(frozen=True)
class Protocol:
    """How every job of a group is trained, apart from its learning rate.

    Attributes:
        budget: the limits of a job.
        decay: how the learning rate decays, as in `--lr-decay`.
        every: most steps between evaluations; None where that is still to be found.
        first: fewest steps between evaluations, as at the start.
    """

    budget: Budget
    decay: float | str = 0.0
    every: int | None = None
    first: int = STRETCH

    @classmethod
    def of(cls, config: Config, every: int | None, first: int = STRETCH) -> Protocol:
        """The protocol that a config asks for, with this grid of evaluations."""
        budget = Budget(config.max_train_seconds, config.max_iterations, config.max_queries, config.patience)
        return cls(budget, config.lr_decay, every, first)

    @property
    def grid(self) -> Grid:
        """The grid of evaluations; `every` has to be known."""
        assert self.every is not None
        return Grid(self.every, self.first)


def trainee(matched: Matched, spec: str, rate: float, protocol: Protocol) -> Trainee:
    """A method ready to be trained, with a model of its own at the initial weights."""
    model = matched.copy_of_model()
    conditions = matched.conditions_of(spec)
    method = methods.chosen(spec, conditions)
    step = methods.prepare(method, model, matched.loss, matched.seed, conditions)
    patience, most_steps = protocol.budget.patience, protocol.budget.steps(method.queries)
    return Trainee(
        model,
        step,
        matched.loss,
        Rate(rate, decay_of(protocol.decay), most_steps),
        matched.data,
        matched.order,
        clock_for(matched.device),
        most_steps,
        math.inf if patience is None else patience * matched.order.epoch,
    )


def pace(matched: Matched, spec: str, protocol: Protocol) -> Pace:
    """How long a step and an evaluation of a method take here, on a model that is dropped."""
    paced = trainee(matched, spec, LEARNING_RATE, Protocol(Budget(math.inf)))
    paced.warm_up()
    steps, evaluations = [], []
    for _ in range(PACED_STEPS):  # the quickest counts: other load on the machine is not the method's
        before = paced.train_seconds, paced.evaluation_seconds
        paced.advance(1)
        paced.evaluate()
        steps.append(paced.train_seconds - before[0])
        evaluations.append(paced.evaluation_seconds - before[1])
    queries = methods.chosen(spec, matched.conditions_of(spec)).queries
    return Pace(min(steps), min(evaluations), protocol.budget.steps(queries))
