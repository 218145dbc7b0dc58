"""Forward gradients with perturbed activities (Ren et al. 2023)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import is_dataclass, replace
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from fgbench.errors import UsageError
from fgbench.methods import Batch, Conditions, Loss, Part, Step, trainable
from fgbench.methods.steps.call_with import CallWith
from fgbench.methods.steps.jvp_by_reverse import pushed
from fgbench.methods.steps.layer_calls import Calls, Still
from fgbench.methods.steps.options import ForwardOptions
from fgbench.methods.steps.update import Update
from fgbench.pushforward.activity import ActivityContext, Site
from fgbench.pushforward.additions import Outer, additions
from fgbench.pushforward.beyond import plain_checkpoints
from fgbench.pushforward.combine import of_samples
from fgbench.pushforward.context import draws_again
from fgbench.pushforward.engine import Pushforward, by_samples
from fgbench.pushforward.frozen import frozen_kept
from fgbench.pushforward.samples import Layout
from fgbench.pushforward.structures import Drawer, Fill
from fgbench.pushforward.tangents import Tangent

# A note that is printed under the figures.
TOGETHER = (
    "samples depend on each other, or have no rows of their own in the loss: the whole batch shares one "
    "derivative"
)
SHARED = (
    "forward:noise=batch needs a derivative of each sample, and here samples depend on each other, as "
    "through batch statistics, or have no rows of their own in the loss: leave noise=batch out."
)
UNSEEN = (
    "forward:structure=activity cannot see what the model does with {name}, as where a torch.jit.script is "
    "given it, and would leave it untrained: use another structure, as structure=rank-one."
)


class ActivityStep(Step):
    """Draw noise for the layers' outputs, run one forward pass, update by each layer's own chain rule.

    A parameter that belongs to no layer (a class token) is perturbed itself. Each sample has its own
    derivative, except where one sample's output depends on the others, as through batch statistics, or the
    loss has no rows of each sample's own, as where it compares pairs of samples: then all share the
    derivative of the whole batch. combine=projection projects each sample's gradient with respect to all
    that is perturbed onto the span of the sample's k tangents.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: ForwardOptions, conditions: Conditions
    ) -> None:
        self.model, self.options = model, options
        self.by_name = trainable(model)
        self.parameters = list(self.by_name.values())
        self.pushforward = Pushforward(model, loss)
        self.update = Update(self.parameters, conditions)
        self.optimizer = self.update.optimizer
        generator = torch.Generator(self.parameters[0].device).manual_seed(seed)
        self.fill = Fill(options.entries, generator)
        self.shared = options.noise == "batch"
        self.projected = options.combine == "projection"
        # Draws for the parameters that belong to no layer; the first batch shows which these are.
        self.drawer = Drawer(self.by_name, options.tangents, options.entries, seed + 1)
        self.noise: dict[torch.Size, dict[int, Tensor]] = {}
        self.wanted: Collection[int] | None = None  # operations that this step perturbs; None for all
        self.ready = False

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """The step's parts: draw, forward pass with tangents, update."""
        return {
            "draw": lambda: self._draw(batch),
            "forward": lambda: self._forward(batch),
            "update": lambda: self._update(learning_rate),
        }

    def get_ready(self, batch: Batch) -> None:
        """Find out what is perturbed, and whether samples depend on each other; only once."""
        if self.ready:
            return
        layouts = self.pushforward.layouts(batch[0])
        self.of_rows = None if layouts is None else self.pushforward.rows(batch, layouts)
        self.layouts = None if self.of_rows is None else layouts
        met = self.pushforward.met(batch[0], self.layouts)
        self.order = met.met
        self.drawer.parameters = {n: p for n, p in self.by_name.items() if id(p) in met.free}
        self.seen = met.free.union(*(map(id, site.parameters) for site in met.sites))
        self._prepare(batch[0], met.sites)
        self.ready = True

    def _prepare(self, x: Tensor, sites: Sequence[Site]) -> None:
        """Called once before the first step, so that subclasses can examine the perturbed operations."""

    def _draw(self, batch: Batch) -> None:
        """Draw noise for all layers, in memory kept from the last batch of this shape.

        The first batch of a shape has none yet: its noise is drawn during the forward pass.
        """
        self.get_ready(batch)
        self.sites: list[Site] = []  # the last pass's, which hold what went into its layers
        for noise in self.noise.setdefault(batch[0].shape, {}).values():
            self.fill(noise)
        self.free: dict[str, Tangent] = dict(self.drawer.draw().by_name)

    def _noise(self, batch: Batch, number: int, output: Tensor) -> Tensor:
        """The noise of one operation, [k, *output], by the operation's number."""
        held, shape = self.noise[batch[0].shape], self._shape(batch, number, output)
        if number not in held or held[number].shape != shape:  # values may decide what goes into a layer
            held[number] = self.fill(output.new_empty(shape))
        return self._for_all(batch, number, held[number])

    def _shape(self, batch: Batch, number: int, output: Tensor) -> torch.Size:
        """The noise's: [k, *output], or one sample's part of that if all samples share the noise."""
        shape: Sequence[int] = output.shape
        if self.shared and self.layouts:
            shape = self.layouts[number].of_one(output.shape, len(batch[0]))
        return torch.Size((self.options.tangents, *shape))

    def _for_all(self, batch: Batch, number: int, drawn: Tensor) -> Tensor:
        """The drawn noise as [k, *output], repeated if all samples share it."""
        if not (self.shared and self.layouts):
            return drawn
        return self.layouts[number].for_all(drawn, len(batch[0]))

    @torch.no_grad()
    def _forward(self, batch: Batch) -> None:
        context = ActivityContext(
            self.options.tangents,
            partial(self._noise, batch),
            {id(self.by_name[name]): t for name, t in self.free.items()},
            self.layouts,
            self.wanted,
            self.shared,
            None if self.layouts is None and self.wanted is None else self.order,
        )
        self.value, by_row = self.pushforward.run(context, batch)
        self.by_sample = by_samples(by_row, len(batch[0]), self.of_rows)
        self.sites = context.sites
        met = self.layouts is None or self.by_sample.shape[1] == 1
        if self.shared and met and len(batch[0]) > 1:
            raise UsageError(SHARED)

    @torch.no_grad()
    def _update(self, learning_rate: float) -> None:
        if self.projected:
            self.gram = self._gram()
        if self.optimizer is None:
            self._descend(learning_rate)
            return
        gradients = self._gradients()
        unused = (p for p in self.parameters if id(p) not in gradients)
        gradients |= {id(p): torch.zeros_like(p) for p in unused}
        self.update.by_gradients([gradients[id(p)] for p in self.parameters], learning_rate)

    def _descend(self, learning_rate: float) -> None:
        """Plain SGD: add the estimate to the parameters directly, without storing a gradient."""
        if self.free:
            weights = self._weigh_whole(self.by_sample) * -learning_rate
            for name, tangent in self.free.items():
                tangent.add_to(self.by_name[name], weights)
        for parameter, addition in additions(self.sites, self._weigh(self.by_sample)):
            _add(parameter, addition, -learning_rate)

    def _gradients(self) -> dict[int, Tensor]:
        """The gradient estimates of all parameters that were perturbed themselves or at the output of their
        layer, by the parameter's id."""
        gradients = {id(self.by_name[name]): torch.zeros_like(self.by_name[name]) for name in self.free}
        if self.free:
            weights = self._weigh_whole(self.by_sample)
            for name, tangent in self.free.items():
                tangent.add_to(gradients[id(self.by_name[name])], weights)
        for parameter, addition in additions(self.sites, self._weigh(self.by_sample)):
            if id(parameter) not in gradients:
                gradients[id(parameter)] = torch.zeros_like(parameter)
            _add(gradients[id(parameter)], addition, 1)
        return gradients

    def _weigh(self, by_sample: Tensor) -> Tensor:
        """The weights of the noise in the estimate, [k, B] or [k, 1], from the samples' derivatives."""
        if self.layouts is None:
            by_sample = by_sample.sum(1, keepdim=True)
        self.measured = by_sample
        gram = self.gram if self.projected else None
        return of_samples(self.options.combine, self.options.clipped(by_sample), gram)

    def _weigh_whole(self, by_sample: Tensor) -> Tensor:
        """The same for parameters that were perturbed for the whole batch at once, [k]."""
        if self.projected:  # projected together with the noise on layers' outputs
            return self._weigh(by_sample).sum(1)
        return self._weigh(by_sample.sum(1, keepdim=True))[:, 0]

    def _gram(self) -> Tensor:
        """Inner products of each sample's tangents, [B, k, k]; [1, k, k] if the batch has one derivative."""
        samples = 1 if self.layouts is None else self.by_sample.shape[1]
        grams = [site.gram(samples) for site in self.sites]
        return reduce(torch.add, grams + [tangent.gram().unsqueeze(0) for tangent in self.free.values()])

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """What this step's estimate should be: the same noise, weighed by reverse mode's ∂f/∂z.

        Raises:
            NotImplementedError: a parameter has a gradient, but neither it nor its layer was seen.
        """
        seen = self.seen.union(*(map(id, site.parameters) for site in self.sites))
        for (name, parameter), slope in zip(self.by_name.items(), gradient, strict=False):
            if id(parameter) not in seen and slope.any():
                raise NotImplementedError(UNSEEN.format(name=name))
        again = draws_again(batch[0].device, bool(self.free))
        buffers = {name: b.clone() for name, b in model.named_buffers()} if self.free else {}
        kept = frozen_kept(model) if self.free else nullcontext()  # for the passes of `_by_sample`
        with again, kept, plain_checkpoints(), Calls(self._perturbed()) as calls:
            value = self.pushforward.loss(model(batch[0]), batch[1])  # which may run a layer too
        outputs = [c.output for c in calls.calls]
        slopes = torch.autograd.grad(value, outputs, materialize_grads=True) if outputs else ()
        by_sample = self._by_sample(model, batch, slopes, buffers)
        weights = self._weigh(by_sample)
        named = trainable(model)
        names_of = {id(p): name for name, p in named.items()}
        found = {name: torch.zeros_like(p) for name, p in named.items()}
        for site, call in zip(self.sites, calls.calls, strict=True):
            pulled = torch.autograd.grad(call.again(), call.parameters, site.weighted(weights))
            for parameter, gradient_of_site in zip(call.parameters, pulled, strict=True):
                found[names_of[id(parameter)]] += gradient_of_site
        for name, tangent in self.free.items():
            tangent.add_to(found[name], self._weigh_whole(by_sample))
        return list(found.values())

    def _perturbed(self) -> Collection[int] | None:
        """The numbers of the operations that this step perturbs; None for all."""
        return self.layouts if self.wanted is None else self.wanted

    def _by_sample(
        self, model: nn.Module, batch: Batch, slopes: Sequence[Tensor], buffers: dict[str, Tensor]
    ) -> Tensor:
        """⟨∂f/∂z, ε⟩ of each sample, [k, B], or of the whole batch, [k, 1], if it has one derivative.

        It is summed over all layers and free parameters; `buffers` are the model's at the step's begin.
        """
        by_sample = torch.zeros_like(self.by_sample if self.layouts else self.by_sample[:, :1])
        samples = by_sample.shape[1]
        for site, slope in zip(self.sites, slopes, strict=True):
            by_sample += _gathered(site.noise * slope, site.layout, samples)
        if not self.free:
            return by_sample
        # Free parameters add ⟨∂f/∂output, the output's tangent⟩ to each sample's derivative.
        moved = {n: p.detach() for n, p in model.named_parameters() if n in self.free}
        rest: list[Any] = []
        call = CallWith(model)

        def output_of(free: dict[str, Tensor]) -> tuple[Tensor, ...]:
            held = {n: p.detach() for n, p in model.named_parameters()}
            trained = {id(held[n]) for n in trainable(model)}
            own = {id(tensor): held[name] for name, tensor in free.items()}
            # Layers are perturbed at their outputs.
            with plain_checkpoints(), Still(own, trained | own.keys(), self.layouts):
                own_buffers = {name: buffer.clone() for name, buffer in buffers.items()}
                output = call({**held, **own_buffers, **free}, batch[0])
            rest[:] = *tree_flatten(vars(output) if _is_plain_dataclass(output) else output), output
            return tuple(filter(_floating, rest[0]))

        for index in range(self.options.tangents):
            tangents = {n: t.full()[index] for n, t in self.free.items()}
            with sdpa_kernel(SDPBackend.MATH), draws_again(batch[0].device), frozen_kept(model):
                values, moves = pushed(output_of, moved, tangents)
            values = [v.detach().requires_grad_() for v in values]
            supply = iter(values)
            output = tree_unflatten([next(supply) if _floating(v) else v for v in rest[0]], rest[1])
            output = replace(rest[2], **output) if _is_plain_dataclass(rest[2]) else output
            loss = self.pushforward.loss(output, batch[1])
            slopes = torch.autograd.grad(loss, values, materialize_grads=True)
            for slope, tangent in zip(slopes, moves, strict=True):
                if slope.any():
                    by_sample[index] += _gathered((slope * tangent)[None], Layout(), samples)[0]
        return by_sample

    def generators(self) -> list[torch.Generator]:
        """The generators of the noise, and of the tangents of parameters without a layer."""
        return [self.fill.generator, *self.drawer.generators]

    def notes(self) -> list[str]:
        """Functions without a rule, why Python runs in each step, and if samples depend on each other."""
        meet = self.ready and self.layouts is None
        return [*[TOGETHER] * meet, *self.pushforward.fallbacks, *self.pushforward.followed]


def _is_plain_dataclass(output: Any) -> bool:
    """Whether a model's output is a dataclass that PyTorch does not take apart, as it does Hugging Face's."""
    return is_dataclass(output) and not isinstance(output, Mapping)


def _floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _gathered(products: Tensor, layout: Layout | None, samples: int) -> Tensor:
    """The sum of [k, *shape] over each sample's entries, [k, samples]; over all of them for one, [k, 1]."""
    if layout is None or samples == 1:
        return products.reshape(len(products), -1).sum(1, keepdim=True)
    return layout.gathered(products, samples)


def _add(target: Tensor, addition: Tensor | Outer, scale: float) -> None:
    if isinstance(addition, Outer):
        addition.add_to(target, scale)
    else:
        target.add_(addition.to(target.dtype), alpha=scale)
