"""Simultaneous perturbation: a directional derivative from two losses, without any differentiation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.methods import PLAIN, Batch, Conditions, Loss, Method, Part, Step, trainable
from fgbench.methods.steps.compiling import compiled
from fgbench.methods.steps.estimate import Update
from fgbench.pushforward.context import buffers_kept, draws_again
from fgbench.pushforward.structures import Drawer, Tangents
from fgbench.specs.options import option


@dataclass(frozen=True)
class Spsa(Method):
    """Two evaluations a step, in place: memory of inference."""

    epsilon: float = option(1e-3, "how far the weights are moved along z, each way", minimum=1e-12)
    structure: str = option(
        "gaussian",
        "entries of z: gaussian N(0, 1), as in MeZO; rademacher ±1",
        choices=("gaussian", "rademacher"),
    )

    summary: ClassVar[str] = "zeroth order: (f(θ+εz) − f(θ−εz)) / 2ε · z, z drawn again from its seed"
    source: ClassVar[str] = "MeZO, Malladi et al. 2023 (arXiv 2305.17333), Algorithm 1; Spall 1992"

    @property
    def queries(self) -> int:
        """One each way."""
        return 2

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model; z comes from `seed` alone."""
        if conditions.captured:
            raise UsageError("spsa draws again from seeds of the host, as no CUDA graph can: --exec eager.")
        return SpsaStep(model, loss, seed, self, conditions)


class SpsaStep(Step):
    """Weights to θ + εz, loss, to θ − εz, loss, then back and on by the update at once."""

    tolerance = 0.05  # rounding over ε; and the mean of both losses is not quite the loss

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: Spsa, conditions: Conditions
    ) -> None:
        self.model, self.loss, self.epsilon = model, loss, options.epsilon
        by_name = trainable(model)
        self.parameters = list(by_name.values())
        self.drawer = Drawer(by_name, 1, options.structure, seed, keep=False)
        self.evaluate = compiled(lambda x, y: loss(model(x), y), conditions)
        self.update = Update(self.parameters, conditions)
        self.optimizer = self.update.optimizer
        self.one = torch.ones(1, dtype=self.parameters[0].dtype, device=self.parameters[0].device)

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """Both evaluations with their moves, then the update; z is drawn in each of them."""
        return {"forward": lambda: self._forward(batch), "update": lambda: self._update(learning_rate)}

    @torch.no_grad()
    def _forward(self, batch: Batch) -> None:
        self.z: Tangents = self.drawer.draw()
        self._move(self.epsilon * self.one)
        with draws_again(batch[0].device):
            above = self.evaluate(*batch)
        self._move(-2 * self.epsilon * self.one)
        with buffers_kept(self.model):
            below = self.evaluate(*batch)
        self.value = (above + below) / 2
        self.directional_derivative = (above - below) / (2 * self.epsilon)

    def _move(self, factor: Tensor) -> None:
        for parameter, z in zip(self.parameters, self.z.by_name.values(), strict=True):
            z.add_to(parameter.detach(), factor)

    @torch.no_grad()
    def _update(self, learning_rate: float) -> None:
        if self.update.optimizer is None:
            self._move(self.epsilon * self.one - learning_rate * self.directional_derivative)
            return
        self._move(self.epsilon * self.one)
        self.update(self.z.by_name, self.directional_derivative.unsqueeze(0), learning_rate)

    def generators(self) -> list[torch.Generator]:
        """Of the seeds."""
        return self.drawer.generators

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """The difference quotient in float64 times z.

        Not ⟨∇f, z⟩ z: with ReLU that is off by tens of percent where z is nearly orthogonal to ∇f.
        """
        model = model.double()
        x, y = (t.double() if t.is_floating_point() else t for t in batch)
        z = [t[0].double() for t in self.z.full()]
        losses = []
        for shift in (self.epsilon, -self.epsilon):
            pairs = zip(trainable(model).items(), z, strict=True)
            moved = {name: p.detach() + shift * v for (name, p), v in pairs}
            with draws_again(x.device), buffers_kept(model):
                losses.append(self.loss(torch.func.functional_call(model, moved, (x,)), y).detach())
        return [(losses[0] - losses[1]) / (2 * self.epsilon) * v for v in z]


method = Spsa
