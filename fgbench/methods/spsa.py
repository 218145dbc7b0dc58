"""Simultaneous perturbation (SPSA): a directional derivative from two losses, without differentiation."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.measurement.quality import Slope, Theory
from fgbench.methods import PLAIN, Batch, Conditions, Loss, Method, Part, Step, trainable
from fgbench.methods.steps.call_with import CallWith
from fgbench.methods.steps.compiling import compiled
from fgbench.methods.steps.layers import Draw, Sampler, costs, units_of
from fgbench.methods.steps.micro_batches import (
    accumulate_option,
    counts,
    micro_batches,
    refuse_batch_statistics,
)
from fgbench.methods.steps.options import (
    bound_option,
    contradictions_of_layers,
    floor_option,
    layers_option,
    sampling_option,
)
from fgbench.methods.steps.theory import of_independent, of_one_layer
from fgbench.methods.steps.update import Update
from fgbench.pushforward.context import attributes_kept, buffers_kept, draws_again, state_kept
from fgbench.pushforward.structures import Drawer, Tangents
from fgbench.specs.options import option


@dataclass(frozen=True)
class Spsa(Method):
    """Two evaluations a step, with weights moved in place, so that it needs only the memory of inference."""

    epsilon: float = option(1e-3, "how far the weights are moved along z in each direction", minimum=1e-12)
    structure: str = option(
        "gaussian",
        "entries of z. gaussian: N(0, 1), as in MeZO; rademacher: ±1",
        choices=("gaussian", "rademacher"),
    )
    layers: str = layers_option()
    sampling: str = sampling_option()
    floor: float = floor_option()
    bound: float = bound_option()
    accumulate: int = accumulate_option()

    summary: ClassVar[str] = "zeroth order: (f(θ+εz) − f(θ−εz)) / 2ε · z, z drawn again from its seed"
    source: ClassVar[str] = "MeZO, Malladi et al. 2023 (arXiv 2305.17333), Algorithm 1; Spall 1992"
    costs: ClassVar[str] = "2 evaluations, and z drawn once for each of the moves"
    worth: ClassVar[str] = "variance ×: n + 2 with gaussian, n with rademacher. Cosine about √(2/πn)"

    def __post_init__(self) -> None:
        """Refuse options that contradict each other, before anything runs."""
        for wrong, text in contradictions_of_layers(self, self.layers):
            if wrong:
                raise UsageError(f"spsa: {text}.")

    @property
    def queries(self) -> int:
        """2: one evaluation in each direction."""
        return 2

    def theory(self, slopes: Sequence[Slope]) -> Theory:
        """As for one tangent: the difference quotient is the derivative up to the curvature along ε."""
        if self.layers == "all":
            return of_independent(self.structure, slopes)
        return of_one_layer(self, slopes) if self.structure == "rademacher" else Theory()

    def variants(self, conditions: Conditions, samples: int) -> Iterator[Method]:
        """The same step with more and more micro-batches."""
        for count in counts(samples) if self.accumulate == 1 else (self.accumulate,):
            yield replace(self, accumulate=count)

    def refuses(self, execution: str) -> str:
        """A CUDA graph."""
        graph = execution == "cudagraph"
        return "spsa draws from seeds on the host, as no CUDA graph can: use --exec eager." if graph else ""

    def prepare(self, model: nn.Module, loss: Loss, seed: int, conditions: Conditions = PLAIN) -> Step:
        """Bind to a model; z depends on `seed` alone."""
        return SpsaStep(model, loss, seed, self, conditions)


class SpsaStep(Step):
    """Move weights to θ + εz, evaluate, move to θ − εz, evaluate, then move back and update in one go."""

    tolerance = 0.05  # rounding is divided by ε, and the mean of both losses is not quite the loss

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: Spsa, conditions: Conditions
    ) -> None:
        refuse_batch_statistics(model, options.accumulate)
        self.model, self.loss, self.epsilon = model, loss, options.epsilon
        self.accumulate = options.accumulate
        self.masks_of_its_own = self.accumulate > 1
        self.by_name = trainable(model)
        self.parameters = list(self.by_name.values())
        self.sampler = Sampler(units_of(model), 1, options, seed) if options.layers == "one" else None
        self.cycle = self.sampler.cycle if self.sampler else 1
        self.ready = self.carrying = False  # carrying: a pass changes what the model holds in attributes
        self.drawer = Drawer(self.by_name, 1, options.structure, seed, keep=False)
        self.evaluate = compiled(lambda x, y: loss(model(x), y), conditions)
        self.update = Update(self.parameters, conditions)
        self.optimizer = self.update.optimizer
        self.one = torch.ones(1, dtype=self.parameters[0].dtype, device=self.parameters[0].device)

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """The step's parts: both evaluations with their moves, then the update; z is drawn again in each."""
        return {"forward": lambda: self._forward(batch), "update": lambda: self._update(learning_rate)}

    def get_ready(self, batch: Batch) -> None:
        """See whether passes change the model's attributes; for adaptive sampling, what each layer costs."""
        if not self.ready:
            self.carrying = self._carries(batch)
            if self.sampler and self.sampler.adaptive:
                self.sampler.costs = costs(self.model, batch[0], self.sampler.units)
        self.ready = True

    def _carries(self, batch: Batch) -> bool:
        """Whether a second pass, as the first one may set the model up, changes the model's attributes."""
        with torch.no_grad(), draws_again(batch[0].device, numpy=True), state_kept(self.model):
            self._mean(batch)
            with attributes_kept(self.model) as changed:
                self._mean(batch)
        return bool(changed)

    def _draw(self) -> None:
        """Draw the z of this step, for all parameters or for one layer's."""
        if self.sampler is None:
            self.z: Tangents = self.drawer.draw()
            return
        self.drawn: Draw = self.sampler.draw()
        names = self.sampler.units[self.drawn.units[0]].names
        self.z = self.drawer.draw_rows({name: range(1) for name in names})
        self.left_alone = frozenset(i for i, name in enumerate(self.by_name) if name not in self.z.by_name)

    @torch.no_grad()
    def _forward(self, batch: Batch) -> None:
        self.get_ready(batch)
        self._draw()
        self._move(self.epsilon * self.one)
        kept = state_kept if self.carrying else buffers_kept  # so that both passes begin alike
        with draws_again(batch[0].device), kept(self.model):
            above = self._mean(batch)
        self._move(-2 * self.epsilon * self.one)
        below = self._mean(batch)
        self.value = (above + below) / 2
        self.measured = self.directional_derivative = (above - below) / (2 * self.epsilon)

    def _mean(self, batch: Batch) -> Tensor:
        """The loss of a batch, micro-batch by micro-batch."""
        if self.accumulate == 1:
            return self.evaluate(*batch)
        parts = micro_batches(batch, self.accumulate)
        return torch.stack([self.evaluate(*part) * share for part, share, _ in parts]).sum()

    def _move(self, factor: Tensor) -> None:
        for name, z in self.z.by_name.items():
            z.add_to(self.by_name[name].detach(), factor)

    @torch.no_grad()
    def _update(self, learning_rate: float) -> None:
        slope = self.directional_derivative
        weighed = slope if self.sampler is None else slope / self.drawn.probabilities[0]
        if self.update.optimizer is None:
            self._move(self.epsilon * self.one - learning_rate * weighed)
        else:
            self._move(self.epsilon * self.one)
            moved = [self.by_name[name] for name in self.z.by_name]
            self.update(self.z.by_name, weighed.unsqueeze(0), learning_rate, moved)
        if self.sampler and self.sampler.adaptive:
            size = self.sampler.units[self.drawn.units[0]].size
            self.sampler.note(self.drawn.units, slope.square().unsqueeze(0) * size)

    def each_kind(self) -> Iterator[None]:
        """Iterate over layers that may need more memory than the others."""
        return self.sampler.each_worst() if self.sampler else super().each_kind()

    def state(self) -> dict[str, Any]:
        """The state of the layer sampler."""
        return self.sampler.state() if self.sampler else {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on sampling layers from a `state`."""
        if self.sampler:
            self.sampler.load_state(state)

    def generators(self) -> list[torch.Generator]:
        """The generator of the seeds."""
        return self.drawer.generators

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """The difference quotient in float64 times z; in its own dtypes for a model that casts to one.

        A model of several dtypes casts as well. ⟨∇f, z⟩ z would not do: with ReLU it is off by tens of
        percent where z is nearly orthogonal to ∇f.
        """
        z = {name: t.full()[0] for name, t in self.z.by_name.items()}
        if len({p.dtype for p in self.parameters}) == 1:
            x, y = (t.double() if t.is_floating_point() else t for t in batch)
            finer = {name: own.double() for name, own in z.items()}
            with suppress(RuntimeError):  # it multiplies what it cast by weights in float64
                return self._expected(copy.deepcopy(model).double(), (x, y), finer)
        return self._expected(model, batch, z)

    def _expected(self, model: nn.Module, batch: Batch, z: dict[str, Tensor]) -> list[Tensor]:
        losses, call = [], CallWith(model)
        for shift in (self.epsilon, -self.epsilon):
            moved = {n: p.detach() for n, p in trainable(model).items()}
            moved |= {name: moved[name] + shift * v for name, v in z.items()}
            with draws_again(batch[0].device), state_kept(model):
                losses.append(self.loss(call(moved, batch[0]), batch[1]).detach())
        slope = (losses[0] - losses[1]) / (2 * self.epsilon)
        weighed = slope if self.sampler is None else slope / self.drawn.probabilities[0]
        return [weighed * z[name] if name in z else torch.zeros_like(p) for name, p in moved.items()]


method = Spsa
