"""Turn a forward method's directional derivatives into an update, or into gradients for an optimiser."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from fgbench.methods import Batch, Conditions, Part, Step
from fgbench.methods.steps.compiling import OneGraph, tensors_of, with_tensors
from fgbench.methods.steps.optimizer import PLAIN_SGD, make_optimizer, optimize
from fgbench.pushforward.flat import flat
from fgbench.pushforward.tangents import Tangent

MOST_TRACES = 2


class ForwardStep(Step):
    """A step with tangents of parameters: draw them, run one pass with them, update."""

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """The step's parts: draw, forward pass with tangents, update."""
        return {
            "draw": self.draw,
            "forward": partial(self._forward, batch),
            "update": partial(self._update, learning_rate),
        }

    @abstractmethod
    def draw(self) -> None:
        """Draw the tangents of the next step."""

    @abstractmethod
    def _forward(self, batch: Batch) -> None:
        """Compute the loss, as `value`, and its derivatives along the tangents."""

    @abstractmethod
    def _update(self, learning_rate: float) -> None:
        """Update the parameters by what the pass found."""


class Update:
    """Updates parameters by Σ coefficients · tangents; under plain SGD no gradient is materialised."""

    def __init__(self, parameters: Sequence[Tensor], conditions: Conditions) -> None:
        self.parameters = list(parameters)
        self.optimizer = None
        if conditions.optimizer != PLAIN_SGD:
            self.optimizer = make_optimizer(conditions, self.parameters)
        self.compiled = conditions.compiled
        self.graph = OneGraph(self._add_tensors)
        self.straight: Callable[..., Any] | None = None
        self.places: list[int] = []  # in memory, of the parameters, where straight-line code writes
        self.traces = 0

    @torch.no_grad()
    def __call__(
        self,
        tangents: Mapping[str, Tangent],
        coefficients: Tensor,
        learning_rate: float,
        parameters: Sequence[Tensor] | None = None,
    ) -> None:
        """Update by the estimate Σ coefficients[i] · tangent i.

        Args:
            tangents: the parameters' tangents, in the order of the parameters.
            coefficients: [k].
            learning_rate: the learning rate of this update.
            parameters: the parameters to update, all if left out. The others, and their optimiser's state,
                stay as they are.
        """
        parameters = self.parameters if parameters is None else parameters
        if self.optimizer is None:
            self._add(parameters, list(tangents.values()), coefficients * -learning_rate)
            return
        gradients = [torch.zeros_like(p) for p in parameters]
        self._add(gradients, list(tangents.values()), coefficients)
        self.by_gradients(gradients, learning_rate, parameters)

    @torch.no_grad()
    def in_place(
        self, tangents: Mapping[str, Tangent], coefficients: Tensor, learning_rate: float, *, stayed: bool
    ) -> None:
        """Update all parameters by tangents that are at the same place in memory at every step.

        Parameters may get other memory, as by `vector_to_parameters`; where they do again and again, as in a
        forward that sets `data`, no straight-line code is made any more. They are not looked at if it is
        known that they `stayed` where the last call found them.
        """
        if self.optimizer is not None:
            self(tangents, coefficients, learning_rate)
            return
        scaled = coefficients * -learning_rate
        if not stayed and self.places != (places := [p.data_ptr() for p in self.parameters]):
            self.places, self.straight = places, None
            if self.traces < MOST_TRACES:
                self.traces += 1
                add = partial(self._add, self.parameters, list(tangents.values()))
                self.straight = flat(add, torch.zeros_like(scaled))  # which runs it once
        if self.straight is None:
            self._add(self.parameters, list(tangents.values()), scaled)
        else:
            self.straight(None, scaled)

    @torch.no_grad()
    def get_ready(self, tangents: Mapping[str, Tangent], parameters: Sequence[Tensor]) -> None:
        """Compile an update of these parameters, on copies of them."""
        copies, kinds = [p.detach().clone() for p in parameters], list(tangents.values())
        self._add(copies, kinds, copies[0].new_zeros(kinds[0].count))

    def _add(self, targets: Sequence[Tensor], tangents: list[Tangent], coefficients: Tensor) -> None:
        if not self.compiled:
            for target, tangent in zip(targets, tangents, strict=True):
                tangent.add_to(target, coefficients)
            return
        self.kinds = tangents
        self.graph(coefficients, *targets, *chain.from_iterable(map(tensors_of, tangents)))

    def _add_tensors(self, coefficients: Tensor, *tensors: Tensor) -> None:
        targets = tensors[: len(self.kinds)]
        tangents = with_tensors(self.kinds, list(tensors[len(targets) :]))
        for target, tangent in zip(targets, tangents, strict=True):
            tangent.add_to(target, coefficients)

    @torch.no_grad()
    def by_gradients(
        self,
        gradients: Sequence[Tensor],
        learning_rate: float,
        parameters: Sequence[Tensor] | None = None,
    ) -> None:
        """Update parameters, all or those given, by estimates of their own shapes, which are not kept."""
        parameters = self.parameters if parameters is None else list(parameters)
        if self.optimizer is None:
            torch._foreach_add_(parameters, list(gradients), alpha=-learning_rate)
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimize(self.optimizer, learning_rate)
        for parameter in parameters:
            parameter.grad = None  # as in backprop, two sets of gradients never live at once
