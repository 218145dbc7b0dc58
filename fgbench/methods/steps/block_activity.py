"""Forward gradients with noise on blocks' outputs, behind the activation functions (Flügel et al. 2024)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.methods import Batch, Conditions, Loss, trainable
from fgbench.methods.steps.activity import SHARED, TOGETHER
from fgbench.methods.steps.blocks import State, activation, check_state, each
from fgbench.methods.steps.blockwise import Block, BlockwiseStep, in_order
from fgbench.methods.steps.options import ForwardOptions
from fgbench.methods.steps.spaces import loss_meets, samples_meet
from fgbench.pushforward.combine import of_samples
from fgbench.pushforward.context import Context, attributes_kept, buffers_kept, draws_again
from fgbench.pushforward.dual import Dual, dual_of, moving
from fgbench.pushforward.structures import Fill

MISSED = (
    "forward:at=block has its noise on the first tensor that a block gives, which does not depend on {name}, "
    "and would leave {name} untrained: use another structure, as structure=rank-one."
)


class BlockActivityStep(BlockwiseStep):
    """Draw noise for every block's output, carry it to the loss, and go back through each block by itself.

    A block is a layer with what follows it up to the next one. Its noise is added behind the activation
    function, so that a unit which that function has switched off is not moved; with noise on the layer's own
    output it would be. Each sample has its own derivative, except where samples depend on each other, as
    through batch statistics, or the loss has no rows of each sample's own: then all share the batch's.
    """

    name = "forward:at=block"

    def __init__(
        self, model: nn.Module, loss: Loss, seed: int, options: ForwardOptions, conditions: Conditions
    ) -> None:
        self.options = options
        super().__init__(model, loss, seed, sys.maxsize, "linear", conditions)
        self.fill = Fill(options.entries, self.generator)
        self.shared = options.noise == "batch"
        self.noise: dict[torch.Size, list[Tensor]] = {}
        self.together: bool | None = None
        self.carries = False  # whether passes change what the model holds in attributes

    def roles(self) -> dict[str, bool]:
        """No auxiliary networks."""
        return {}

    @torch.no_grad()
    def get_ready(self, batch: Batch) -> None:
        """Make room for the noise, and find out whether samples depend on each other; once for each shape."""
        x = batch[0]
        if x.shape in self.noise:
            return
        outputs, meet, state = [], [], x
        unknown = self.together is None and len(x) > 1  # of a single sample it cannot be told
        attributes, buffers = attributes_kept(self.model), buffers_kept(self.model)
        with draws_again(x.device), attributes as changed, buffers:
            for number, block in enumerate(self.blocks, 1):
                given, state = state, block.module(state)
                check_state(state, number, self.name)
                meet.append(unknown and samples_meet(block.pushforward, given))
                outputs.append(activation(state))
        self.carries = self.carries or bool(changed)
        k, first = self.options.tangents, 1 if self.shared else 0  # the first dimension counts samples
        shapes = [(k, *output.shape[first:]) for output in outputs]
        self.noise[x.shape] = [output.new_empty(shape) for output, shape in zip(outputs, shapes, strict=True)]
        if unknown:
            own = all(len(output) == len(x) for output in outputs) and not any(meet[1:])
            self.together = not own or loss_meets(self.last.pushforward, state, batch[1])

    def _draw(self, batch: Batch) -> None:
        self.get_ready(batch)
        self.drawn = [self.fill(noise) for noise in self.noise[batch[0].shape]]

    def _forward(self, batch: Batch) -> None:
        context = Context(self.options.tangents, {}, first=False)
        moved: State = None
        x, self.outputs = batch[0], []
        for block, noise in zip(self.blocks, self.drawn, strict=True):
            carried = None if moved is None else self._push(block, context, moved)
            with torch.enable_grad():
                output = block.module(x)
            self.outputs.append(output)
            x = each(torch.Tensor.detach, output)
            moved = _noisy(x if carried is None else carried, self._for_all(noise))
        self.value, by_row = self.last.pushforward.derivatives(context, moved, batch[1])
        self.measured = self.derivatives = self._by_sample(by_row, len(batch[0]))

    def _push(self, block: Block, context: Context, moved: State) -> State:
        """A block's output with tangents; the next pass finds buffers, attributes and draws as this did."""
        attributes = attributes_kept(block.module) if self.carries else nullcontext()
        with draws_again(activation(moved).stack.device), attributes:
            return block.pushforward.push(context, moved)

    def _by_sample(self, by_row: Tensor, samples: int) -> Tensor:
        """The derivatives of each sample, [k, B], from those of the loss's rows; or the batch's, [k, 1]."""
        if by_row.shape[1] == samples and not self.together:
            return by_row
        self.together = True  # which a note tells
        if self.shared and samples > 1:
            raise UsageError(SHARED)
        return by_row.sum(1, keepdim=True)

    def _for_all(self, noise: Tensor) -> Tensor:
        """Noise as it is added to [k, B, …]."""
        return noise.unsqueeze(1) if self.shared else noise

    @torch.no_grad()
    def _backward(self) -> None:
        weights = self._weigh(self.derivatives)
        for block, output, noise in zip(self.blocks, self.outputs, self.drawn, strict=True):
            self._keep(block, self._estimate(block, output, noise, weights))
        self.outputs = []

    def _weigh(self, derivatives: Tensor) -> Tensor:
        """The weights of the noise in the estimate, [k, B] or [k, 1]."""
        gram = self._gram(derivatives.shape[1]) if self.options.combine == "projection" else None
        return of_samples(self.options.combine, self.options.clipped(derivatives), gram)

    def _gram(self, samples: int) -> Tensor:
        """Inner products of the k tangents over all blocks, [B, k, k], or [1, k, k] if samples share them."""
        one = self.shared or samples == 1
        flat = [_by_row(n.unsqueeze(1) if one else n).transpose(0, 1).double() for n in self.drawn]
        return torch.stack([rows @ rows.mT for rows in flat]).sum(0)

    def _estimate(
        self, block: Block, output: State, noise: Tensor, weights: Tensor, *, again: bool = False
    ) -> Sequence[Tensor]:
        """The chain rule through the block alone, whose graph is freed if it is not needed `again`."""
        activated, weights = activation(output), weights.to(noise.dtype)
        if self.shared:
            cotangent = (weights.t() @ noise.view(len(noise), -1)).view(-1, *noise.shape[1:])
            cotangent = cotangent.expand_as(activated)  # of one sample, all rows have the same
        else:
            cotangent = (weights.reshape(*weights.shape, *[1] * (noise.dim() - 2)) * noise).sum(0)
        found = torch.autograd.grad(
            activated, block.parameters, cotangent, retain_graph=again, materialize_grads=True
        )
        return [f.to_dense() if f.layout == torch.sparse_coo else f for f in found]

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """The estimate from the same noise, weighed by reverse mode's gradients of the blocks' outputs.

        Raises:
            NotImplementedError: a parameter has a gradient, but the noise on its block's output misses it.
        """
        blocks, _, outputs = self.by_reverse_mode(model, batch)
        missed = set().union(*map(_missed, blocks, outputs))
        for (name, parameter), slope in zip(trainable(model).items(), gradient, strict=True):
            if id(parameter) in missed and slope.any():
                raise NotImplementedError(MISSED.format(name=name))
        value = self.loss(outputs[-1], batch[1])
        slopes = torch.autograd.grad(value, list(map(activation, outputs)), retain_graph=True)
        products = [self._for_all(n) * s for n, s in zip(self.drawn, slopes, strict=True)]
        rows = [_by_row(p).sum(2) for p in products]
        if self.derivatives.shape[1] == 1:
            rows = [r.sum(1, keepdim=True) for r in rows]
        by_sample = torch.stack(rows).sum(0)
        weights = self._weigh(by_sample)
        of_blocks = zip(blocks, outputs, self.drawn, strict=True)
        found = [self._estimate(*of_block, weights, again=True) for of_block in of_blocks]
        return in_order(model, blocks, found)

    def notes(self) -> list[str]:
        """The functions that the engine had no rule for, and a note if samples depend on each other."""
        fallen = {text for block in self.blocks for text in block.pushforward.fallbacks}
        return [*[TOGETHER] * bool(self.together), *sorted(fallen)]


def _missed(block: Block, output: State) -> set[int]:
    """The ids of a block's parameters on which its output, where the noise is, does not depend."""
    total = activation(output).sum()
    found = torch.autograd.grad(total, block.parameters, retain_graph=True, allow_unused=True)
    return {id(p) for p, slope in zip(block.parameters, found, strict=True) if slope is None}


def _by_row(tensor: Tensor) -> Tensor:
    """[k, B, …] as [k, B, entries]; each sample of [k, B] has one entry."""
    return tensor.reshape(*tensor.shape[:2], -1)


def _noisy(state: State, noise: Tensor) -> State:
    """A block's output with noise among its tangents; an input that skips layers keeps those it has."""
    if isinstance(state, tuple):
        return _noisy(state[0], noise), *(moving(part, len(noise)) for part in state[1:])
    if not isinstance(state, Dual):
        return dual_of(state, noise.expand(len(noise), *state.shape))
    moved = state if state.spare else Dual(state.stack.clone())
    moved.tangents.add_(noise)
    return moved
