"""Forward gradients that perturb weights, on the pushforward engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.methods import Batch, Conditions, Loss, trainable
from fgbench.methods.steps.compiling import OneGraph, tensors_of, with_tensors
from fgbench.methods.steps.micro_batches import micro_batches, refuse_batch_statistics
from fgbench.methods.steps.options import ForwardOptions
from fgbench.methods.steps.update import ForwardStep, Update
from fgbench.pushforward.combine import coefficients, draw_independent
from fgbench.pushforward.context import Context
from fgbench.pushforward.engine import Pushforward, UntraceableError
from fgbench.pushforward.structures import Drawer, Tangents, squared_length
from fgbench.pushforward.tangents import Tangent


class PushforwardStep(ForwardStep):
    """Draw k tangents, run one forward pass for all of them, update; factored tangents stay factored."""

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: ForwardOptions, conditions: Conditions
    ) -> None:
        refuse_batch_statistics(model, options.accumulate)
        self.by_name = trainable(model)
        self.parameters = list(self.by_name.values())
        self.options, self.conditions = options, conditions
        self.masks_of_its_own = options.accumulate > 1
        size = sum(p.numel() for p in self.parameters)
        spanning = options.combine == "projection" or options.structure == "orthonormal"
        self.count = min(options.tangents, size) if spanning else options.tangents
        self.drawer = Drawer(
            self.by_name,
            self.count,
            options.structure,
            seed,
            entries=options.entries,
            angle=options.angle,
            keep=options.store == "keep",
        )
        self.factor = _factor(options, size, self.count)
        self.pushforward = Pushforward(model, loss)
        # By the shapes and strides of a batch, the pass as plain calls of torch; None where it cannot be had.
        self.straight: dict[Any, Callable[..., Any] | None] = {}
        self.fixed = [*model.parameters(), *model.buffers()]
        self.places: list[int] = []  # in memory, of what is fixed, where straight-line code reads and writes
        self.stayed = False  # whether this step's pass was straight-line code, which moves nothing
        self.graph = OneGraph(self._evaluate_tensors, model)
        self.update = Update(self.parameters, conditions)
        self.optimizer = self.update.optimizer

    def draw(self) -> None:
        """Draw the tangents of this step."""
        projected = self.options.combine == "projection"
        self.tangents: Tangents = draw_independent(self.drawer) if projected else self.drawer.draw()

    def _forward(self, batch: Batch) -> None:
        tangents = list(self.tangents.by_name.values())
        if not self.conditions.compiled:
            self.value, self.derivatives = self._eagerly(batch, tangents)
            return
        self._settle(batch)
        self.value, self.derivatives = self.graph(*batch, *chain.from_iterable(map(tensors_of, tangents)))

    def _eagerly(self, batch: Batch, tangents: Sequence[Tangent]) -> tuple[Tensor, Tensor]:
        x, y = batch
        if any(self.straight.values()) and self.places != self._places():  # as after vector_to_parameters
            self.straight = {}
        kind = x.shape, x.stride(), x.dtype, y.shape, y.dtype, self.pushforward.model.training
        straight = self.straight.get(kind)
        self.stayed = False
        if straight is not None and self.tangents.by_name is self.drawer.kept:
            self.stayed = True
            return straight(None, x, y)  # type: ignore[no-any-return]
        found = self._evaluate(batch, tangents)
        if kind not in self.straight and self._stays():
            self.straight[kind] = self.pushforward.flat(batch, self._by_parameter(tangents))
            self.places = self._places()
        return found

    def _places(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.fixed]

    def _stays(self) -> bool:
        """Whether tangents are in the same memory at every step, and one pass takes all of them."""
        own = self.tangents.by_name is self.drawer.kept and self.options.chunk in (0, self.count)
        return own and self.options.accumulate == 1 and self.conditions.execution == "eager"

    def _settle(self, batch: Batch) -> None:
        """Refuse a model whose course of operations may change from call to call.

        Raises:
            UntraceableError: it may.
        """
        by_id = {id(self.by_name[name]): t for name, t in self.tangents.by_name.items()}
        why = self.pushforward.why_not_settled(Context(self.count, by_id), batch)
        if why:
            raise UntraceableError(why)

    def _evaluate_tensors(self, x: Tensor, y: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        tangents = with_tensors(list(self.tangents.by_name.values()), list(tensors))
        return self._evaluate((x, y), tangents)

    def _evaluate(self, batch: Batch, tangents: Sequence[Tangent]) -> tuple[Tensor, Tensor]:
        by_parameter = self._by_parameter(tangents)
        if self.options.accumulate == 1:
            return self.pushforward(batch, by_parameter, self.options.chunk)
        found = [
            (share * value, share * derivatives)
            for part, share, _ in micro_batches(batch, self.options.accumulate)
            for value, derivatives in [self.pushforward(part, by_parameter, self.options.chunk)]
        ]
        values, derivatives = zip(*found, strict=True)
        return torch.stack(values).sum(), torch.stack(derivatives).sum(0)

    def _by_parameter(self, tangents: Sequence[Tangent]) -> dict[nn.Parameter, Tangent]:
        return {self.by_name[n]: t for n, t in zip(self.tangents.by_name, tangents, strict=True)}

    def _update(self, learning_rate: float) -> None:
        self.measured = along = self.tangents.directional(self.derivatives)
        coefficients = self.tangents.onto_drawn(self._weigh(along))
        if self.straight and self.tangents.by_name is self.drawer.kept:
            own = self.tangents.by_name
            self.update.in_place(own, coefficients, learning_rate, stayed=self.stayed)
        else:
            self.update(self.tangents.by_name, coefficients, learning_rate, self._perturbed())

    def _perturbed(self) -> list[Tensor]:
        """The parameters that have tangents in this step."""
        return [self.by_name[name] for name in self.tangents.by_name]

    def _weigh(self, derivatives: Tensor) -> Tensor:
        """The coefficients c, [k], of the estimate Σ c_i v_i, from the derivatives along the v_i, [k]."""
        derivatives = self.options.clipped(derivatives)
        found = coefficients(self.options.combine, derivatives, self.tangents)
        return found if self.factor == 1 else self.factor * found

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """Σ c_i v_i, with c from the true derivatives ⟨∇f, v_i⟩, in float64 as dtypes may differ."""
        full = self.tangents.full()
        pairs = zip(gradient, full, strict=True)
        along = [torch.tensordot(v.double(), g.double(), dims=g.dim()) for g, v in pairs]
        weights = self._weigh(torch.stack(along).sum(0))
        return [torch.tensordot(weights.to(v.dtype), v, dims=1) for v in full]

    def generators(self) -> list[torch.Generator]:
        """The generators of the tangents."""
        return self.drawer.generators

    def notes(self) -> list[str]:
        """Functions without a rule, which ran by PyTorch's forward mode, and why Python runs in each step."""
        return [*self.pushforward.fallbacks, *self.pushforward.followed]


def _factor(options: ForwardOptions, size: int, count: int) -> float:
    """The factor that makes E‖g‖² equal ‖∇f‖² with scale=variance; 1 otherwise."""
    if options.scale == "none":
        return 1.0
    if options.combine == "projection":
        return math.sqrt(size / count)
    squared = squared_length(options.structure, options.entries, size, count)
    assert squared is not None, "refused before"
    return 1 / math.sqrt(squared) / (count if options.combine == "sum" else 1)
