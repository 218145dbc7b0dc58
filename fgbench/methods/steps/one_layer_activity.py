"""Forward gradients with the perturbed activity of one layer a step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.methods import Batch, Conditions, Loss
from fgbench.methods.steps.activity import ActivityStep
from fgbench.methods.steps.layers import ON_THE_HOST, Draw, Sampler, Unit, costs, joined
from fgbench.methods.steps.options import ForwardOptions
from fgbench.pushforward.activity import ActivityContext
from fgbench.pushforward.context import buffers_kept, draws_again
from fgbench.pushforward.program import Program
from fgbench.pushforward.tangents import Tangent


class _SomeLayers(ActivityContext):
    """A pass with noise on the outputs of some layers."""

    def __init__(
        self,
        count: int,
        noise: Callable[[str, Tensor], Tensor],
        tangents: Mapping[int, Tangent],
        wanted: Collection[str],
    ) -> None:
        """`wanted`: the sites that are perturbed; the rest as of `ActivityContext`."""
        super().__init__(count, noise, tangents)
        self.wanted = wanted
        self.passed: list[str] = []

    def after(self, site: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Add noise where it is wanted."""
        if site not in self.wanted:
            return output
        self.passed.append(site)
        return super().after(site, module, inputs, output)


class OneLayerActivityStep(ActivityStep):
    """Draw layers on the host and noise for their outputs, one pass that moves from there on, update them.

    A layer that is called more than once is perturbed at all of its calls. The parameters that belong to no
    layer are one more thing to draw. `sampling=size` counts the numbers that are perturbed of a sample.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: ForwardOptions, conditions: Conditions
    ) -> None:
        if conditions.captured:
            raise UsageError(ON_THE_HOST)
        super().__init__(model, loss, seed, options, conditions)
        self.seed = seed
        self.sampler: Sampler | None = None  # until a first batch shows the layers
        self.to_load: dict[str, Any] = {}
        self.shapes: dict[tuple[torch.Size, str], torch.Size] = {}

    def _prepare(self, x: Tensor) -> Program:
        program = super()._prepare(x)
        units = self._units(program, x)
        self.sampler = Sampler(units, self.options.tangents, self.options, self.seed)
        self.cycle = self.sampler.cycle
        if self.sampler.adaptive:
            self.sampler.costs = costs(self.model, x, units)
        if self.to_load:
            self.sampler.load_state(self.to_load)
        return program

    def _units(self, program: Program, x: Tensor) -> list[Unit]:
        """The layers that a pass meets, each with all of its calls, and before them the free parameters."""
        names: list[str] = []

        def still(site: str, output: Tensor) -> Tensor:
            names.append(site)
            return torch.zeros_like(output).unsqueeze(0)

        context = ActivityContext(1, still, {})
        with torch.no_grad(), draws_again(x.device), buffers_kept(self.model):
            program(context, x)
        by_module: dict[int, list[tuple[str, int]]] = {}
        for name, site in zip(names, context.sites, strict=True):
            by_module.setdefault(id(site.module), []).append((name, site.noise.numel() // len(x)))
        modules = {id(site.module): site.module for site in context.sites}
        self.all_layers = [self.names[key] for key in modules]
        groups = [
            (
                Unit(self.names[key], tuple(name for name, _ in calls), sum(size for _, size in calls)),
                all(p.dim() < 2 for p in modules[key].parameters()),
            )
            for key, calls in by_module.items()
        ]
        free = self.drawer.parameters
        if free:
            groups.insert(0, (Unit("", tuple(free), sum(p.numel() for p in free.values())), False))
        return joined(groups)

    def _draw(self, batch: Batch) -> None:
        """The layers, and noise for what a batch of this shape met before; the first time as it goes."""
        self.get_ready(batch)
        assert self.sampler is not None
        self.drawn: Draw = self.sampler.draw()
        units = self.sampler.units
        rows = {name: own for unit, own in self.drawn.rows.items() for name in units[unit].names}
        free = {name: own for name, own in rows.items() if name in self.drawer.parameters}
        self.free = dict(self.drawer.draw_rows(free).by_name) if free else {}
        self.rows = {name: own for name, own in rows.items() if name not in free}
        self.filled: dict[str, Tensor] = {}  # that of the last step goes before this one's is made
        self.sites = []
        known = {site: self.shapes.get((batch[0].shape, site)) for site in self.rows}
        like = self.parameters[0].detach()
        for site, shape in known.items():
            if shape is not None:
                self.filled[site] = self._noise(site, like.new_empty(shape))

    def _noise(self, site: str, noise: Tensor) -> Tensor:
        """Fill [k, *output] in the rows of this site's tangents."""
        rows = self.rows[site]
        if len(rows) < len(noise):
            noise.zero_()
        self.fill(noise[rows.start : rows.stop])
        return noise

    @torch.no_grad()
    def _forward(self, batch: Batch) -> None:
        assert self.program is not None
        count = self.options.tangents

        def noise(site: str, output: Tensor) -> Tensor:
            if site not in self.filled or self.filled[site].dtype != output.dtype:
                made = output.new_empty(count, *output.shape)
                self.shapes[batch[0].shape, site] = made.shape
                self.filled[site] = self._noise(site, made)
            return self.filled[site]

        by_name = {n: p for n, p in self.model.named_parameters() if n in self.free}
        tangents = {id(by_name[name]): t for name, t in self.free.items()}
        context = _SomeLayers(count, noise, tangents, self.rows)
        self.value, self.by_sample = self.pushforward.run(self.program, context, batch)
        self.sites, self.passed = context.sites, context.passed

    @torch.no_grad()
    def _update(self, learning_rate: float) -> None:
        gradients = self._gradients()
        moved = [p for p in self.parameters if id(p) in gradients]
        self.left_alone = frozenset(i for i, p in enumerate(self.parameters) if id(p) not in gradients)
        assert self.sampler is not None
        if self.sampler.adaptive:
            squares = [self._square(unit, rows, gradients) for unit, rows in self.drawn.rows.items()]
            self.sampler.note(list(self.drawn.rows), torch.stack(squares))
        self.update.by_gradients([gradients[id(p)] for p in moved], learning_rate, moved)

    def _square(self, unit: int, rows: range, gradients: Mapping[int, Tensor]) -> Tensor:
        """‖estimate‖² of a layer by one tangent, without 1/p: that of all in it, over their number."""
        assert self.sampler is not None
        names = self.sampler.units[unit].names
        by_name = dict(self.model.named_parameters())
        parameters = {id(by_name[name]) for name in names if name in self.free}
        for name, site in zip(self.passed, self.sites, strict=True):
            parameters |= {id(p) for p in site.module.parameters() if name in names and p.requires_grad}
        whole = torch.stack([gradients[key].square().sum() for key in parameters]).sum()
        share = self.options.tangents if self.options.combine == "mean" else 1
        return whole * (share * self.drawn.probabilities[rows.start]) ** 2 / len(rows)

    def _weigh(self, by_sample: Tensor) -> Tensor:
        """Weights of the noise, [k, B] or [k, 1], 1/p among them."""
        weights = self.drawn.weights(by_sample)
        return super()._weigh(by_sample) * (weights.unsqueeze(1) if isinstance(weights, Tensor) else weights)

    def _layers(self, model: nn.Module) -> list[nn.Module]:
        return [model.get_submodule(name) for name in self.all_layers]

    def each_kind(self) -> Iterator[None]:
        """Layers that may need more memory than the others."""
        assert self.sampler is not None
        yield from self.sampler.each_worst()

    def state(self) -> dict[str, Any]:
        """That of the draws of layers."""
        return self.sampler.state() if self.sampler else self.to_load

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on drawing from there, once the layers are known."""
        self.to_load = state
        if self.sampler and state:
            self.sampler.load_state(state)
