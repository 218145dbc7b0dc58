"""Forward gradients with perturbed activities (Ren et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fgbench.errors import UsageError
from fgbench.methods import Batch, Conditions, Loss, Part, Step, trainable
from fgbench.methods.steps.options import ForwardOptions
from fgbench.methods.steps.update import Update
from fgbench.pushforward.activity import ActivityContext, additions
from fgbench.pushforward.context import draws_again
from fgbench.pushforward.engine import Pushforward
from fgbench.pushforward.program import Program
from fgbench.pushforward.structures import Drawer, Fill
from fgbench.pushforward.tangents import Tangent

MEET = "samples meet: the whole batch shares its derivative"


@dataclass(frozen=True)
class _Call:
    """A layer's call on its way through reverse mode."""

    module: nn.Module
    inputs: tuple[Any, ...]
    options: dict[str, Any]
    output: Tensor

    def again(self) -> Tensor:
        """Its output, of its own parameters alone: a weight that is used earlier too stays out of it."""
        inputs = (x.detach() if isinstance(x, Tensor) else x for x in self.inputs)
        return _first(self.module.forward(*inputs, **self.options))


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def _parameters_still(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Layers compute with their parameters as they are now, whatever stands in for these elsewhere."""
    hooks: list[Any] = []
    for layer in layers:
        hooks += _hold(layer)
    yield
    for hook in hooks:
        hook.remove()


def _hold(layer: nn.Module) -> list[Any]:
    """Hooks that put a layer's parameters in for the time of its forward."""
    tables = [module._parameters for module in layer.modules()]
    own: list[dict[str, Any]] = [{n: p if p is None else p.detach() for n, p in t.items()} for t in tables]
    others: list[dict[str, Any]] = []

    def put_in(*call: Any) -> None:
        others[:] = [dict(table) for table in tables]
        for table, mine in zip(tables, own, strict=True):
            table.update(mine)

    def take_out(*call: Any) -> None:
        for table, theirs in zip(tables, others, strict=True):
            table.update(theirs)

    return [layer.register_forward_pre_hook(put_in), layer.register_forward_hook(take_out)]


class ActivityStep(Step):
    """Draw noise for layers' outputs, one forward pass, update by each layer's own chain rule.

    Parameters of no layer (a class token) are perturbed themselves. Where samples meet, as in batch
    statistics, all share the batch's derivative; elsewhere each has its own.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: ForwardOptions, conditions: Conditions
    ) -> None:
        if conditions.compiled:
            raise UsageError("forward:structure=activity runs eagerly: leave --exec out.")
        self.model, self.options = model, options
        self.names = {id(m): name for name, m in model.named_modules()}
        self.parameters = list(trainable(model).values())
        self.pushforward = Pushforward(model, loss)
        self.update = Update(self.parameters, conditions)
        self.optimizer = self.update.optimizer
        generator = torch.Generator(self.parameters[0].device).manual_seed(seed)
        self.fill = Fill(options.entries, generator)
        # Of parameters without a layer; which these are the first batch shows.
        self.drawer = Drawer(trainable(model), options.tangents, options.entries, seed + 1)
        self.noise: dict[torch.Size, dict[str, Tensor]] = {}
        self.program: Program | None = None

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """Draw, the forward pass with tangents, update."""
        return {
            "draw": lambda: self._draw(batch),
            "forward": lambda: self._forward(batch),
            "update": lambda: self._update(learning_rate),
        }

    def get_ready(self, batch: Batch) -> None:
        """Trace the model, and find what is perturbed and whether samples meet."""
        if self.program is None:
            self.program = self._prepare(batch[0])

    def _prepare(self, x: Tensor) -> Program:
        program = self.pushforward.program(x)
        if program is None:
            why = ", ".join(self.pushforward.fallbacks)
            raise UsageError(f"forward:structure=activity needs a model that torch.fx traces: {why}")
        self.together = self.pushforward.samples_meet(program, x)
        by_name = trainable(self.model)
        self.drawer.parameters = {n: p for n, p in by_name.items() if id(p) in program.free_parameters}
        return program

    def _draw(self, batch: Batch) -> None:
        """Noise for the layers that a batch of this shape met before; the first time as it goes."""
        self.get_ready(batch)
        for noise in self.noise.setdefault(batch[0].shape, {}).values():
            self.fill(noise)
        self.free: dict[str, Tangent] = dict(self.drawer.draw().by_name)

    @torch.no_grad()
    def _forward(self, batch: Batch) -> None:
        assert self.program is not None
        held = self.noise[batch[0].shape]

        def noise(site: str, output: Tensor) -> Tensor:
            if site not in held:
                held[site] = self.fill(output.new_empty(self.options.tangents, *output.shape))
            return held[site]

        by_name = trainable(self.model)
        tangents = {id(by_name[name]): t for name, t in self.free.items()}
        context = ActivityContext(self.options.tangents, noise, tangents)
        self.value, self.by_sample = self.pushforward.run(self.program, context, batch)
        self.sites = context.sites

    @torch.no_grad()
    def _update(self, learning_rate: float) -> None:
        gradients = self._gradients()
        unused = (p for p in self.parameters if id(p) not in gradients)
        gradients |= {id(p): torch.zeros_like(p) for p in unused}
        self.update.by_gradients([gradients[id(p)] for p in self.parameters], learning_rate)

    def _gradients(self) -> dict[int, Tensor]:
        """The estimate, by the id of each parameter that was perturbed or whose layer was."""
        by_name = trainable(self.model)
        gradients = {id(by_name[name]): torch.zeros_like(by_name[name]) for name in self.free}
        for parameter, gradient in additions(self.sites, self._weigh(self.by_sample)):
            before, own = gradients.get(id(parameter)), gradient.to(parameter.dtype)
            gradients[id(parameter)] = own if before is None else before + own
        for name, tangent in self.free.items():
            tangent.add_to(gradients[id(by_name[name])], self._weigh_whole(self.by_sample))
        return gradients

    def _weigh(self, by_sample: Tensor) -> Tensor:
        """Weights of the noise, [k, B] or [k, 1], of the derivatives by sample."""
        if self.together:
            by_sample = by_sample.sum(1, keepdim=True)
        self.measured = by_sample
        if self.options.clip:
            by_sample = by_sample.clamp(-self.options.clip, self.options.clip)
        return by_sample / (self.options.tangents if self.options.combine == "mean" else 1)

    def _weigh_whole(self, by_sample: Tensor) -> Tensor:
        """Weights of what is perturbed for the whole batch, [k]."""
        return self._weigh(by_sample.sum(1, keepdim=True))[:, 0]

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """The same noise against ∂f/∂z of reverse mode, layer by layer."""
        with draws_again(batch[0].device, bool(self.free)):
            output, calls = self._calls(model, batch[0])
        value, outputs = self.pushforward.loss(output, batch[1]), [c.output for c in calls]
        slopes = torch.autograd.grad(value, outputs) if calls else ()
        by_sample = self._by_sample(model, batch, slopes)
        weights = self._weigh(by_sample)
        named = trainable(model)
        names_of = {id(p): name for name, p in named.items()}
        found = {name: torch.zeros_like(p) for name, p in named.items()}
        for site, call in zip(self.sites, calls, strict=True):
            shape = weights.shape + (1,) * (site.noise.dim() - 2)
            cotangent = (weights.reshape(shape) * site.noise).sum(0)
            names = [names_of[id(p)] for p in call.module.parameters() if p.requires_grad]
            pulled = torch.autograd.grad(call.again(), [named[n] for n in names], cotangent)
            for name, gradient_of_site in zip(names, pulled, strict=True):
                found[name] += gradient_of_site
        for name, tangent in self.free.items():
            tangent.add_to(found[name], self._weigh_whole(by_sample))
        return list(found.values())

    def _calls(self, model: nn.Module, x: Tensor) -> tuple[Any, list[_Call]]:
        """The model's output, and the calls of the perturbed layers on the way to it."""
        calls: list[_Call] = []

        def record(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> Any:
            first = _first(output)
            calls.append(_Call(module, inputs, options, first))
            # The model goes on with a copy, which a layer in place may overwrite.
            return (first.clone(), *output[1:]) if isinstance(output, tuple) else first.clone()

        hooks = [m.register_forward_hook(record, with_kwargs=True) for m in self._perturbed(model)]
        output = model(x)
        for hook in hooks:
            hook.remove()
        return output, calls

    def _perturbed(self, model: nn.Module) -> list[nn.Module]:
        """The layers of a copy of the model that are perturbed at their outputs."""
        return [model.get_submodule(name) for name in {self.names[id(s.module)] for s in self.sites}]

    def _layers(self, model: nn.Module) -> list[nn.Module]:
        """The layers of a copy of the model that may be perturbed at their outputs."""
        return self._perturbed(model)

    def _by_sample(self, model: nn.Module, batch: Batch, slopes: Sequence[Tensor]) -> Tensor:
        """⟨∂f/∂z, ε⟩ of each sample, [k, B], over all layers and free parameters."""
        pairs = zip(self.sites, slopes, strict=True)
        by_sample = batch[0].new_zeros(self.options.tangents, 1 if self.together else len(batch[0]))
        by_sample = by_sample.to(self.parameters[0].dtype)
        for site, slope in pairs:
            by_sample += self._by_rows(site.noise * slope)
        if not self.free:
            return by_sample
        # What the free parameters add to each sample's derivative: ⟨∂f/∂output, output's tangent⟩.
        held = {n: p.detach() for n, p in model.named_parameters()}
        moved = {n: held[n] for n in self.free}

        def output_of(free: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(model, {**held, **free}, (batch[0],))

        for index in range(self.options.tangents):
            tangents = {n: t.full()[index] for n, t in self.free.items()}
            with (
                sdpa_kernel(SDPBackend.MATH),
                draws_again(batch[0].device),
                _parameters_still(self._layers(model)),  # they are perturbed at their outputs
            ):
                output, tangent = torch.func.jvp(output_of, (moved,), (tangents,))  # type: ignore[misc]
            output = output.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.pushforward.loss(output, batch[1]), output)
            by_sample[index] += self._by_rows((slope * tangent).unsqueeze(0))[0]
        return by_sample

    def _by_rows(self, products: Tensor) -> Tensor:
        """Sums of [k, …] for each sample, [k, B]; over all, [k, 1], where samples meet."""
        if self.together:
            return products.flatten(1).sum(1, keepdim=True)
        return products.flatten(2).sum(2)

    def generators(self) -> list[torch.Generator]:
        """Of the noise, and of the tangents of parameters without a layer."""
        return [self.fill.generator, *self.drawer.generators]

    def notes(self) -> list[str]:
        """What fell back, and whether samples meet."""
        meet = self.program is not None and self.together
        return [MEET, *self.pushforward.fallbacks] if meet else self.pushforward.fallbacks
