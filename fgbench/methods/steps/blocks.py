"""Cut a model into consecutive blocks, for methods that train each block by itself.

A block's output is called a state here. It is a tensor, or, between the two halves of a residual block, a
pair: the activation, and the input that skips the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fgbench.errors import UsageError

State = Any
"""A tensor or a `Dual`, [batch, …]; or (activation, skip) of them."""


def each(change: Callable[..., Any], *states: State) -> State:
    """Apply `change` to a state, or to each of its parts; of several states, to corresponding parts."""
    if isinstance(states[0], tuple):
        return tuple(change(*parts) for parts in zip(*states, strict=True))
    return change(*states)


def activation(state: State) -> Any:
    """The activation in a state, without the input that skips the layers."""
    return state[0] if isinstance(state, tuple) else state


def check_state(state: State, number: int, method: str) -> None:
    """Check that a block gives what goes from block to block.

    Args:
        state: what it gave.
        number: the block's place, from 1.
        method: the method's name, for the message.

    Raises:
        UsageError: it is no tensor, and no pair of them.
    """
    parts = state if isinstance(state, tuple) else (state,)
    if not all(isinstance(part, Tensor) for part in parts):
        raise UsageError(
            f"{method} hands one tensor from block to block, but block {number} gives a "
            f"{type(state).__name__}: let its last layer give a tensor."
        )


def cut(model: nn.Module, count: int, method: str) -> list[nn.Module]:
    """The model as `count` blocks in a row, or as many as it has; they share its layers.

    A block begins at a layer with parameters, unless that is a batch norm. In a residual network a block is a
    residual block, or half of one if more blocks are asked for; the stem belongs to the first block and the
    head to the last (Fournier et al. 2023).

    Args:
        model: an nn.Sequential.
        count: the most blocks to cut it into.
        method: the method's name, for messages.

    Raises:
        UsageError: the model is not an nn.Sequential, nothing in it is trained, or blocks share a parameter.
    """
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        raise UsageError(f"{method} needs an nn.Sequential to cut into blocks, not a {type(model).__name__}.")
    units = _units(_layers(model), count)
    if not units:
        raise UsageError(f"{method} needs a trained layer that is not a batch norm, and the model has none.")
    count = min(count, len(units))
    bounds = [index * len(units) // count for index in range(count + 1)]
    blocks: list[nn.Module] = [nn.Sequential(*chain(*units[a:b])) for a, b in pairwise(bounds)]
    owned = [id(p) for block in blocks for p in block.parameters()]
    if len(set(owned)) < len(owned):
        raise UsageError(f"{method} trains each block by itself, but two blocks share a parameter.")
    return blocks


def _layers(model: nn.Sequential) -> list[nn.Module]:
    """The layers in order; those of an nn.Sequential within take its place."""
    nested = (_layers(m) if type(m) is nn.Sequential else [m] for m in model)
    return list(chain(*nested))


def _units(layers: list[nn.Module], count: int) -> list[list[nn.Module]]:
    """The smallest pieces to cut between; flattening belongs to the piece after it: images stay images."""
    residual = sum(map(_is_residual, layers))
    if count > residual:
        layers = list(chain(*(_halves(m) if _is_residual(m) else [m] for m in layers)))
    units: list[list[nn.Module]] = []
    lead: list[nn.Module] = []
    for layer in layers:
        if _opens(layer, bool(residual)):
            units.append([*lead, layer])
            lead = []
        elif not units or lead or isinstance(layer, nn.Flatten):
            lead.append(layer)
        else:
            units[-1].append(layer)
    if units:
        units[-1] += lead
    return units


def _opens(layer: nn.Module, residual: bool) -> bool:
    if residual:
        return _is_residual(layer) or isinstance(layer, FirstHalf | SecondHalf)
    return any(p.requires_grad for p in layer.parameters()) and not isinstance(layer, _BatchNorm)


def _is_residual(layer: nn.Module) -> bool:
    """Whether a layer is torchvision's BasicBlock; torchvision is not imported to find out."""
    kind = type(layer)
    return (kind.__module__, kind.__qualname__) == ("torchvision.models.resnet", "BasicBlock")


def _halves(block: Any) -> list[nn.Module]:
    return [FirstHalf(block), SecondHalf(block)]


class FirstHalf(nn.Module):
    """The first half of a BasicBlock, up to its first activation: x → (activation, x)."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = block.conv1, block.bn1, block.relu

    def forward(self, x: Any) -> Any:
        """[batch, channels, height, width] → the activation, and the input for the skip."""
        return self.relu(self.bn1(self.conv1(x))), x


class SecondHalf(nn.Module):
    """The second half of a BasicBlock: (activation, x) → output."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv2, self.bn2, self.relu = block.conv2, block.bn2, block.relu
        self.downsample = block.downsample

    def forward(self, state: Any) -> Any:
        """The second convolution's output, and the skip added."""
        activated, skip = state
        if self.downsample is not None:
            skip = self.downsample(skip)
        return self.relu(self.bn2(self.conv2(activated)) + skip)
