"""Compare estimates with gradients, for the steps of all methods at the same weights and batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fgbench import methods
from fgbench.measurement.quality import Draws
from fgbench.methods import Batch, Method, Step, trainable
from fgbench.methods.steps.masks import masks_by_index
from fgbench.methods.steps.optimizer import PLAIN_SGD
from fgbench.methods.steps.oracle import norm
from fgbench.running.arms import Problem
from fgbench.running.messages import Report
from fgbench.running.reporting import failures_reported
from fgbench.running.weights import Weights
from fgbench.training.randomness import OwnRandomness

START = "start"  # stands in place of the method that trained the weights


@dataclass(frozen=True)
class WeightsPoint:
    """Weights at which estimates are drawn.

    Attributes:
        weights: the method that trained them, or `start`.
        iteration: steps that it had taken.
        methods: the specs of the methods whose estimates are drawn.
        batch: gives the batch of a draw from the draw's number.
        load: gives the weights; None for those of the problem's model.
    """

    weights: str
    iteration: int
    methods: Sequence[str]
    batch: Callable[[int], Batch]
    load: Callable[[], Weights] | None = None


class Reader:
    """A method's step, from which the estimates that it would apply are read.

    Its optimiser is plain SGD, under which the weights move by the estimate times the rate; at a rate that
    moves them by as much as they are long, rounding takes the least of it.
    """

    def __init__(self, problem: Problem, spec: str) -> None:
        self.spec = spec
        self.method: Method = methods.find(spec)
        self.model = copy.deepcopy(problem.model)
        conditions = replace(problem.conditions_of(spec), execution="eager", optimizer=PLAIN_SGD, update="")
        self.step: Step = methods.prepare(self.method, self.model, problem.loss, problem.seed, conditions)
        self.step.get_ready(problem.batches[0])
        self.clip: float = getattr(self.method, "clip", 0.0)
        self.counts: list[Tensor] = []

    def begin(self, weights: Weights) -> None:
        """Move the step to a point's weights, and to the state that the method's own training had there."""
        self.counts = []
        self.model.load_state_dict(weights.model)
        if weights.method == self.spec:
            self.step.load_state(weights.step)

    @torch.no_grad()
    def estimate(self, batch: Batch, rate: float) -> list[Tensor]:
        """That of one step, which is then undone, but for what it draws from: the next draws other tangents.

        Networks of its own go back too: the rate is none to train them by.
        """
        parameters, buffers = list(self.step.parameters), list(self.model.buffers())
        before = [t.detach().clone() for t in (*parameters, *buffers)]
        own = copy.deepcopy(self.step.state())
        with torch.enable_grad():
            self.step(batch, rate)
        found = [(b - p.detach()) / rate for b, p in zip(before, parameters, strict=False)]
        for tensor, value in zip((*parameters, *buffers), before, strict=True):
            tensor.copy_(value)
        self.step.load_state(_with_tensors_of(own, self.step.state()))
        self._note(found)
        return found

    def _note(self, estimate: Sequence[Tensor]) -> None:
        """Count derivatives, and those that are not finite or are clipped; on the device."""
        measured = self.step.measured
        if measured is None:
            bad = torch.stack([~e.isfinite().all() for e in estimate]).any().reshape(1)
        else:
            bad = ~measured.isfinite()
        clipped = measured.abs() > self.clip if measured is not None and self.clip else torch.zeros_like(bad)
        self.counts.append(torch.stack([torch.ones_like(bad).sum(), bad.sum(), clipped.sum()]))

    def shares(self) -> tuple[float | None, float]:
        """The shares of clipped and of non-finite derivatives at the point."""
        count, bad, clipped = torch.stack(self.counts).sum(0).tolist()
        return (clipped / count if self.clip else None), bad / count


def _with_tensors_of(before: Any, after: Any) -> Any:
    """A step's state with copied tensors, so that later steps do not change it."""
    if isinstance(after, Tensor):
        return before
    if isinstance(after, dict) and isinstance(before, dict) and after.keys() == before.keys():
        return {key: _with_tensors_of(before[key], value) for key, value in after.items()}
    if isinstance(after, list) and isinstance(before, list) and len(after) == len(before):
        return [_with_tensors_of(old, new) for old, new in zip(before, after, strict=True)]
    return after


class Judge:
    """Computes gradients by reverse mode, and compares estimates with them."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.model = copy.deepcopy(problem.model)
        self.start = copy.deepcopy(self.model.state_dict())
        self.parameters = list(trainable(self.model).values())
        self.layers = layers_of(self.model)

    def gradient(self, batch: Batch, number: int) -> list[Tensor]:
        """∇f by parameter, with the dropout masks of the draw of this number."""
        with self._masks(number):
            value = self.problem.loss(self.model(batch[0]), batch[1])
        return list(torch.autograd.grad(value, self.parameters, materialize_grads=True))

    def rehearse(self, reader: Reader, start: WeightsPoint) -> None:
        """Draw an estimate that is not kept, to see how long that takes."""
        with self._masks(0):
            reader.estimate(start.batch(0), 1.0)

    def draw(
        self, readers: Mapping[str, Reader], point: WeightsPoint, count: int, report: Report
    ) -> tuple[dict[str, Draws], float]:
        """Of all methods of a point `count` draws each, every draw on a batch of its own; and ‖∇F‖.

        Methods that fail are reported, and left out.
        """
        weights = point.load() if point.load else Weights(START, 0, self.start, {})
        self.model.load_state_dict(weights.model)
        large = self._large()
        draws = {spec: Draws(self.layers) for spec in point.methods}
        for spec in draws:
            readers[spec].begin(weights)
        for number in range(count):
            batch = point.batch(number)
            gradient = self.gradient(batch, number)
            rate = _rate(self.parameters, gradient)
            for spec in list(draws):
                done = False
                with failures_reported(report, spec), self._masks(number):
                    draws[spec].add(readers[spec].estimate(batch, rate), gradient, large)
                    done = True
                if not done:
                    del draws[spec]
        return draws, norm(large)

    def _large(self) -> list[Tensor]:
        """∇F: the mean over the problem's batches."""
        found = [torch.zeros_like(p) for p in self.parameters]
        for number, batch in enumerate(self.problem.batches):
            torch._foreach_add_(found, self.gradient(batch, -1 - number))
        torch._foreach_div_(found, float(len(self.problem.batches)))
        return [f.detach() for f in found]

    @contextmanager
    def _masks(self, number: int) -> Iterator[None]:
        """Inside, dropout drops the same units for the gradient and for the estimate."""
        seed = self.problem.seed * 1_000_003 + len(self.problem.batches) + number
        with OwnRandomness(seed, self.problem.device).in_force(), masks_by_index(self.model):
            yield


def layers_of(model: nn.Module) -> dict[str, list[int]]:
    """By module name, the positions of its own trained parameters; the model's own name is `.`."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(trainable(model)):
        found.setdefault(name.rpartition(".")[0] or ".", []).append(place)
    return found


def _rate(parameters: Sequence[Tensor], gradient: Sequence[Tensor]) -> float:
    size, slope = norm([p.detach() for p in parameters]), norm(gradient)
    rate = size / slope if slope > 0 else 1.0
    return rate if 0 < rate < math.inf else 1.0
