"""Forward gradients that perturb the weights of one layer in each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.methods import Batch, Conditions, Loss, Part
from fgbench.methods.steps.compiling import OneGraph
from fgbench.methods.steps.layers import Draw, Sampler, costs, each_outcome, filled, units_of
from fgbench.methods.steps.options import ForwardOptions
from fgbench.methods.steps.pushforward import PushforwardStep


class OneLayerStep(PushforwardStep):
    """Draw layers on the host and tangents for them, run one pass, update these layers.

    Everything before the first perturbed layer is evaluated without tangents. Each set of layers that can be
    drawn has a program of its own, and there are about as many as layers. All of them are made before the
    first step, and compiled under torch.compile. As probabilities move, several adaptive tangents come to
    sets that could not be drawn at first: their programs are made within the steps that draw them.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: ForwardOptions, conditions: Conditions
    ) -> None:
        super().__init__(model, loss, seed, options, conditions)
        self.model = model
        self.sampler = Sampler(units_of(model), self.count, options, seed)
        self.cycle = self.sampler.cycle
        self.place = {name: index for index, name in enumerate(self.by_name)}
        self.graphs: dict[tuple[int, ...], OneGraph] = {}
        self.ready = False

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """The step's parts: draw, forward pass with tangents, update."""
        self.get_ready(batch)
        return super().parts(batch, learning_rate)

    def get_ready(self, batch: Batch) -> None:
        """Make a program for each possible draw; with adaptive sampling, first count each layer's cost."""
        if self.ready:
            return
        self.ready = True
        if self.sampler.adaptive:
            self.sampler.costs = costs(self.model, batch[0], self.sampler.units)
        for drawn in each_outcome(self, self.model, self.sampler, batch):
            self._draw(drawn)
            self._forward(batch)
            if self.conditions.compiled:
                self.update.get_ready(self.tangents.by_name, self._perturbed())

    def draw(self) -> None:
        """Draw the layers of this step, and their tangents."""
        self._draw(self.sampler.draw())

    def _draw(self, drawn: Draw) -> None:
        self.drawn = drawn
        units = self.sampler.units
        self.tangents = self.drawer.draw_rows(
            {name: rows for unit, rows in drawn.rows.items() for name in units[unit].names}
        )
        self.left_alone = frozenset(p for n, p in self.place.items() if n not in self.tangents.by_name)
        if self.conditions.compiled:
            if drawn.units not in self.graphs:
                self.graphs[drawn.units] = OneGraph(self._evaluate_tensors, self.model)
            self.graph = self.graphs[drawn.units]

    def _update(self, learning_rate: float) -> None:
        super()._update(learning_rate)
        if self.sampler.adaptive:
            along = self.tangents.directional(self.derivatives)
            sizes = filled([self.sampler.units[unit].size for unit in self.drawn.units], along)
            self.sampler.note(self.drawn.units, along.square() * sizes)

    def _weigh(self, derivatives: Tensor) -> Tensor:
        """The weights of the tangents in the estimate, [k], including the factor 1/p."""
        return super()._weigh(derivatives) * self.drawn.weights(derivatives)

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """For each drawn layer, Σ ⟨∇f, v⟩ v / p over its tangents, divided by k; zero for other layers."""
        found = [torch.zeros_like(g) for g in gradient]
        full = dict(zip(self.tangents.by_name, self.tangents.full(), strict=True))
        share = 1 if self.options.combine == "sum" else 1 / self.count
        for unit, rows in self.drawn.rows.items():
            names, p = self.sampler.units[unit].names, self.drawn.probabilities[rows.start]
            for row in rows:
                own = {name: full[name][row] for name in names}
                along = sum((gradient[self.place[n]] * v).sum() for n, v in own.items())
                if self.options.clip:
                    along = torch.clamp(torch.as_tensor(along), -self.options.clip, self.options.clip)
                for name, v in own.items():
                    found[self.place[name]] += share / p * along * v
        return found

    def each_kind(self) -> Iterator[None]:
        """Iterate over layers that may need more memory than the others."""
        yield from self.sampler.each_worst()

    def state(self) -> dict[str, Any]:
        """The state of the layer sampler."""
        return self.sampler.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on sampling layers from a `state`."""
        self.sampler.load_state(state)
