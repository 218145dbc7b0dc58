"""What is perturbed in a block: its weights, weights of each sample, or its output (Fournier et al. 2023).

A guess is a list of tensors: one for each trained parameter of the block, of shape [*shape], or
[batch, *shape] where each sample has weights of its own; or one for the block's output, [batch, …].
Derivatives are [batch] where each sample has its own, [1] where samples share one, and [parameters] where
each parameter has its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.dropout import _DropoutNd

from fgbench.methods.steps.blocks import State, activation, each
from fgbench.methods.steps.blockwise import Block
from fgbench.pushforward.context import Context, draws_again
from fgbench.pushforward.dual import Dual, dual_of, moving
from fgbench.pushforward.engine import Pushforward
from fgbench.pushforward.samples import zeros_filled
from fgbench.pushforward.tangents import Full

Guess = Sequence[Tensor]


class Space(ABC):
    """A space of guesses: what they perturb, and how they become gradients."""

    by_sample = True
    """Whether every sample has a guess of its own."""
    records = False
    """Whether reverse mode goes back through each block at the end of the step."""
    passes = True
    """Whether `push` runs the block."""

    def shapes(self, block: Block, output: Sequence[int], samples: int) -> list[tuple[int, ...]]:
        """The shapes of a guess; `output` is the shape of the block's output for one sample."""
        return [(samples, *p.shape) for p in block.parameters]

    def tangents(self, block: Block) -> int:
        """How many tangents a block's guess is."""
        return 1

    @abstractmethod
    def of_slope(self, block: Block, x: State, output: State, slope: Tensor) -> list[Tensor]:
        """A loss's gradient in this space, by reverse mode in the block alone.

        Args:
            block: the block.
            x: the block's input.
            output: the block's output, with its graph if the space is not `by_sample`.
            slope: ∂(loss)/∂(activation in the output), of the activation's shape.
        """

    @abstractmethod
    def push(self, block: Block, x: State, output: State, guess: Guess, *, first: bool) -> State:
        """The block's output with the guess as its tangents, by forward mode.

        `output` is the block's output for `x` if it ran before. If it did not, `first` is true, and running
        statistics are updated now.
        """

    @abstractmethod
    def estimate(self, block: Block, output: State, guess: Guess, weights: Tensor) -> list[Tensor]:
        """Σ weights · guess as a gradient estimate for the block's parameters; weights: [batch] or [1]."""

    def inner(self, one: Guess, other: Guess) -> Tensor:
        """Inner products of two guesses, [batch] or [1]."""
        pairs = zip(one, other, strict=True)
        return torch.stack([(a * b).flatten(1).sum(1) for a, b in pairs]).sum(0)


class BatchWeight(Space):
    """Weights that the whole batch shares."""

    by_sample = False

    def shapes(self, block: Block, output: Sequence[int], samples: int) -> list[tuple[int, ...]]:
        """The shapes of the parameters."""
        return [tuple(p.shape) for p in block.parameters]

    def of_slope(self, block: Block, x: State, output: State, slope: Tensor) -> list[Tensor]:
        """The gradient of the block's parameters."""
        return _pulled(block, output, slope)

    def push(self, block: Block, x: State, output: State, guess: Guess, *, first: bool) -> State:
        """As of `Space`, by one pass of the engine."""
        pairs = zip(block.parameters, guess, strict=True)
        context = Context(1, {id(p): Full(g.unsqueeze(0)) for p, g in pairs}, first=first)
        return each(_moving_one, block.pushforward.push(context, x))

    def estimate(self, block: Block, output: State, guess: Guess, weights: Tensor) -> list[Tensor]:
        """The guess, scaled by its weight."""
        return list(torch._foreach_mul(list(guess), weights[0]))

    def inner(self, one: Guess, other: Guess) -> Tensor:
        """The inner product over all parameters of the block, [1]."""
        return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum(0, keepdim=True)


class BatchTensor(BatchWeight):
    """Weights that the whole batch shares, each parameter by itself: a tangent for each."""

    def tangents(self, block: Block) -> int:
        """The number of the block's parameters."""
        return len(block.parameters)

    def push(self, block: Block, x: State, output: State, guess: Guess, *, first: bool) -> State:
        """As of `Space`; the tangents have zeros for all parameters but one each."""
        count, along = len(guess), {}
        for index, (parameter, own) in enumerate(zip(block.parameters, guess, strict=True)):
            entries = own.new_zeros(count, *own.shape)
            entries[index] = own
            along[id(parameter)] = Full(entries)
        moved = block.pushforward.push(Context(count, along, first=first), x)
        return each(lambda part: moving(part, count), moved)

    def estimate(self, block: Block, output: State, guess: Guess, weights: Tensor) -> list[Tensor]:
        """Each parameter's guess, scaled by its own weight."""
        return [weight * own for weight, own in zip(weights, guess, strict=True)]

    def inner(self, one: Guess, other: Guess) -> Tensor:
        """The inner product of each parameter's, [parameters]."""
        return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)])


class Weight(Space):
    """Weights of each sample's own: as many guesses as samples, each as large as the block's weights."""

    def of_slope(self, block: Block, x: State, output: State, slope: Tensor) -> list[Tensor]:
        """The gradients of each sample's weights."""

        def of_sample(x: State, slope: Tensor) -> dict[str, Tensor]:
            _, pull = vjp(lambda p: activation(_of_sample(block, p, x)), _held(block))  # type: ignore[misc]
            return pull(slope)[0]

        return list(vmap(of_sample)(x, slope).values())

    def push(self, block: Block, x: State, output: State, guess: Guess, *, first: bool) -> State:
        """As of `Space`, by torch.func.jvp in a vmap over samples: the engine's weights are the batch's."""

        def of_sample(x: State, *tangents: Tensor) -> Any:
            along = dict(zip(block.trained, tangents, strict=True))
            return jvp(lambda p: _of_sample(block, p, x), (_held(block),), (along,))  # type: ignore[misc]

        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
            value, tangent = vmap(of_sample)(x, *guess)
        return each(lambda v, t: dual_of(v, t.unsqueeze(0)), value, tangent)

    def estimate(self, block: Block, output: State, guess: Guess, weights: Tensor) -> list[Tensor]:
        """The sum over samples, as the loss is their mean already."""
        return [(_spread(weights, g) * g).sum(0) for g in guess]


class Activation(Space):
    """The block's output, for each sample by itself; the chain rule turns it into weights' gradients."""

    records, passes = True, False

    def shapes(self, block: Block, output: Sequence[int], samples: int) -> list[tuple[int, ...]]:
        """The shape of the output."""
        return [(samples, *output)]

    def of_slope(self, block: Block, x: State, output: State, slope: Tensor) -> list[Tensor]:
        """The slope itself."""
        return [slope]

    def push(self, block: Block, x: State, output: State, guess: Guess, *, first: bool) -> State:
        """The output with the guess as its tangent; an input that skips the layers has a tangent of zero."""
        if isinstance(output, tuple):
            activated, *rest = (part.detach() for part in output)
            return dual_of(activated, guess[0].unsqueeze(0)), *map(_moving_one, rest)
        return dual_of(output.detach(), guess[0].unsqueeze(0))

    def estimate(self, block: Block, output: State, guess: Guess, weights: Tensor) -> list[Tensor]:
        """The chain rule through the block alone."""
        return _pulled(block, output, _spread(weights, guess[0]) * guess[0])


SPACES: dict[str, Callable[[], Space]] = {
    "weight": Weight,
    "batch-weight": BatchWeight,
    "batch-tensor": BatchTensor,
    "activation": Activation,
}


def loss_meets(pushforward: Pushforward, output: State, target: Tensor) -> bool:
    """Whether the loss has no rows of the samples' own, in their order.

    Where it has, and each sample's tangent is multiplied by a number of its own, so is the derivative of its
    row.
    """
    activated = activation(output)
    numbers = torch.randn(len(activated), generator=torch.Generator().manual_seed(0)).to(activated)

    def moved(part: Tensor) -> Dual:
        tangent = _slope(part).expand_as(part)
        return dual_of(part, torch.stack([tangent, tangent * _spread(numbers, part)]))

    _, by_row = pushforward.derivatives(Context(2, {}, first=False), each(moved, output), target)
    if by_row.shape[1] != len(activated):
        return True
    off = (by_row[1] - numbers * by_row[0]).abs().max()
    return bool(off > torch.finfo(by_row.dtype).eps ** 0.5 * by_row.abs().max())


def _slope(part: Tensor) -> Tensor:
    """A tangent of one sample, [1, …], in which all entries differ."""
    return torch.linspace(0.5, 1.5, part[0].numel()).to(part).view_as(part[:1])


def samples_meet(pushforward: Pushforward, x: State) -> bool:
    """Whether samples depend on each other: whether the first one's tangent reaches the others' outputs."""

    def on_the_first(part: Tensor) -> Dual:
        tangent = torch.zeros_like(part).unsqueeze(0)
        tangent[0, :1] = _slope(part)
        return dual_of(part, tangent)

    first = activation(x)
    if len(first) == 1 or not first.is_floating_point():
        return True  # it cannot be told
    met: list[bool] = []
    with draws_again(first.device), zeros_filled(pushforward.model):
        output = pushforward.push(Context(1, {}, first=False), each(on_the_first, x))
    each(lambda part: met.append(bool(part.tangents[0, 1:].any())), output)
    return any(met)


def drops(module: nn.Module) -> bool:
    """Whether a module has dropout."""
    return any(isinstance(m, _DropoutNd) and m.p > 0 for m in module.modules())


def _pulled(block: Block, output: State, cotangent: Tensor) -> list[Tensor]:
    return list(
        torch.autograd.grad(
            activation(output), block.parameters, cotangent, retain_graph=True, materialize_grads=True
        )
    )


def _held(block: Block) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in block.trained.items()}


def _of_sample(block: Block, parameters: dict[str, Tensor], x: State) -> State:
    output = block.call(parameters, each(lambda part: part.unsqueeze(0), x))
    return each(lambda part: part.squeeze(0), output)


def _moving_one(value: Any) -> Dual:
    return moving(value, 1)


def _spread(weights: Tensor, like: Tensor) -> Tensor:
    """Reshape weights, [batch] or [1], so that they broadcast to [batch, …]."""
    return weights.view(-1, *[1] * (like.dim() - 1))
