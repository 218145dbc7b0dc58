"""Forward gradients that perturb the output of one layer in each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.methods import Batch, Conditions, Loss
from fgbench.methods.steps.activity import ActivityStep
from fgbench.methods.steps.layers import Draw, Sampler, Unit, costs, each_outcome, joined
from fgbench.methods.steps.options import ForwardOptions
from fgbench.pushforward.activity import Site


class OneLayerActivityStep(ActivityStep):
    """Draw layers on the host and noise for their outputs, run one pass, update these layers.

    A layer is a weight with all operations that use it. The parameters that belong to no layer count as one
    more layer. `sampling=size` counts the perturbed numbers of one sample.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: ForwardOptions, conditions: Conditions
    ) -> None:
        super().__init__(model, loss, seed, options, conditions)
        self.seed = seed
        self.sampler: Sampler | None = None  # until a first batch shows the layers
        self.to_load: dict[str, Any] = {}
        self.shapes: dict[tuple[torch.Size, int], torch.Size] = {}

    def get_ready(self, batch: Batch) -> None:
        """Find the perturbed operations, and run a pass with each possible draw."""
        if self.ready:
            return
        super().get_ready(batch)
        assert self.sampler is not None
        for drawn in each_outcome(self, self.model, self.sampler, batch):
            self._draw_at(batch, drawn)
            self._forward(batch)

    def _prepare(self, x: Tensor, sites: Sequence[Site]) -> None:
        units = self._units(x, sites)
        self.sampler = Sampler(units, self.options.tangents, self.options, self.seed)
        self.cycle = self.sampler.cycle
        if self.sampler.adaptive:
            self.sampler.costs = costs(self.model, x, units)
        if self.to_load:
            self.sampler.load_state(self.to_load)

    def _units(self, x: Tensor, sites: Sequence[Site]) -> list[Unit]:
        """The layers, each with all of its operations; the parameters without a layer come first."""
        names = {id(p): name for name, p in self.by_name.items()}
        by_weight: dict[int, list[Site]] = {}
        for site in sites:
            by_weight.setdefault(id(site.parameters[0]), []).append(site)
        groups = [
            (
                Unit(
                    names[weight].rpartition(".")[0],
                    tuple(_name(site.number) for site in own),
                    sum(site.noise.numel() for site in own) // len(x),
                ),
                all(p.dim() < 2 for site in own for p in site.parameters),
            )
            for weight, own in by_weight.items()
        ]
        free = self.drawer.parameters
        if free:
            groups.insert(0, (Unit("", tuple(free), sum(p.numel() for p in free.values())), False))
        return joined(groups)

    def _draw(self, batch: Batch) -> None:
        """Draw the layers, and noise for them if the shapes of their outputs are known already.

        The first batch of a shape draws its noise during the forward pass.
        """
        self.get_ready(batch)
        assert self.sampler is not None
        self._draw_at(batch, self.sampler.draw())

    def _draw_at(self, batch: Batch, drawn: Draw) -> None:
        assert self.sampler is not None
        self.drawn, units = drawn, self.sampler.units
        rows = {name: own for unit, own in self.drawn.rows.items() for name in units[unit].names}
        free = {name: own for name, own in rows.items() if name in self.drawer.parameters}
        self.free = dict(self.drawer.draw_rows(free).by_name) if free else {}
        self.rows = {_number(name): own for name, own in rows.items() if name not in free}
        self.wanted = self.rows
        self.filled: dict[int, Tensor] = {}  # frees the last step's noise before new noise is made
        self.sites = []
        like = self.parameters[0].detach()
        for number in self.rows:
            shape = self.shapes.get((batch[0].shape, number))
            if shape is not None:
                self.filled[number] = self._fill_rows(number, like.new_empty(shape))

    def _fill_rows(self, number: int, noise: Tensor) -> Tensor:
        """Fill [k, *output] in the rows of this operation's tangents."""
        rows = self.rows[number]
        if len(rows) < len(noise):
            noise.zero_()
        self.fill(noise[rows.start : rows.stop])
        return noise

    def _noise(self, batch: Batch, number: int, output: Tensor) -> Tensor:
        held, shape = self.filled.get(number), self._shape(batch, number, output)
        if held is None or held.dtype != output.dtype or held.shape != shape:
            self.shapes[batch[0].shape, number] = shape
            self.filled[number] = self._fill_rows(number, output.new_empty(shape))
        return self._for_all(batch, number, self.filled[number])

    @torch.no_grad()
    def _update(self, learning_rate: float) -> None:
        touched = {id(p) for site in self.sites for p in site.parameters}
        touched |= {id(self.drawer.parameters[name]) for name in self.free}
        self.left_alone = frozenset(i for i, p in enumerate(self.parameters) if id(p) not in touched)
        assert self.sampler is not None
        if self.optimizer is None and not self.sampler.adaptive:
            self._descend(learning_rate)
            return
        gradients = self._gradients()
        if self.sampler.adaptive:
            squares = [self._square(unit, rows, gradients) for unit, rows in self.drawn.rows.items()]
            self.sampler.note(list(self.drawn.rows), torch.stack(squares))
        moved = [p for p in self.parameters if id(p) in touched]
        self.update.by_gradients([gradients[id(p)] for p in moved], learning_rate, moved)

    def _square(self, unit: int, rows: range, gradients: Mapping[int, Tensor]) -> Tensor:
        """‖estimate‖² of a layer for one tangent, without the factor 1/p, as a mean over its tangents."""
        assert self.sampler is not None
        names = self.sampler.units[unit].names
        parameters = {id(self.drawer.parameters[name]) for name in names if name in self.free}
        for site in self.sites:
            if _name(site.number) in names:
                parameters |= {id(p) for p in site.parameters}
        whole = torch.stack([gradients[key].square().sum() for key in parameters]).sum()
        share = self.options.tangents if self.options.combine == "mean" else 1
        return whole * (share * self.drawn.probabilities[rows.start]) ** 2 / len(rows)

    def _weigh(self, by_sample: Tensor) -> Tensor:
        """Weights of the noise, [k, B] or [k, 1], including the factor 1/p."""
        weights = self.drawn.weights(by_sample)
        return super()._weigh(by_sample) * (weights.unsqueeze(1) if isinstance(weights, Tensor) else weights)

    def each_kind(self) -> Iterator[None]:
        """Iterate over layers that may need more memory than the others."""
        assert self.sampler is not None
        yield from self.sampler.each_worst()

    def state(self) -> dict[str, Any]:
        """The state of the layer sampler."""
        return self.sampler.state() if self.sampler else self.to_load

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on sampling layers from a `state`, once the layers are known."""
        self.to_load = state
        if self.sampler and state:
            self.sampler.load_state(state)


def _name(number: int) -> str:
    """The name of an operation, for a list that also has names of parameters."""
    return f"operation {number}"


def _number(name: str) -> int:
    return int(name.rpartition(" ")[2])
