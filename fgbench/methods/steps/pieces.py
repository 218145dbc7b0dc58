"""Cut a model that is a chain into pieces, each with one trained layer and what follows it up to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fgbench.errors import UsageError

Call = Callable[[Tensor], Tensor]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Piece:
    """A part of the chain with one trained layer.

    Attributes:
        before: calls before the layer; only the first piece has any.
        layer: a linear or convolution layer.
        after: calls up to the next trained layer, such as activations, pooling and flattening.
    """

    before: Sequence[Call]
    layer: nn.Module
    after: Sequence[Call]

    def __call__(self, x: Tensor) -> Tensor:
        """[batch, *input] → [batch, *output]."""
        return self.finish(self.start(x))

    def start(self, x: Tensor) -> Tensor:
        """The layer's own output, before its activation."""
        for call in self.before:
            x = call(x)
        return self.layer(x)

    def finish(self, z: Tensor) -> Tensor:
        """The piece's output, from the layer's output that `start` gave."""
        for call in self.after:
            z = call(z)
        return z

    @torch.no_grad()
    def start_tangent(self, tangent: Tensor) -> Tensor:
        """The tangent of the layer's output for a tangent of its input: the layer without its bias."""
        if isinstance(self.layer, nn.Linear):
            return nn.functional.linear(tangent, self.layer.weight)
        return self.layer._conv_forward(tangent, self.layer.weight, None)  # type: ignore[operator]


def cut(model: nn.Module, name: str) -> list[Piece]:
    """The pieces of a model; a frozen layer belongs to the piece that it is in.

    Args:
        model: an nn.Sequential, or any model that torch.fx traces to one call after the other.
        name: the method's name, for messages.

    Raises:
        UsageError: the model is not a chain, has parameters in layers other than linear and convolution
            ones, or uses a layer twice.
    """
    try:
        calls = _chain(model)
        trained = [i for i, call in enumerate(calls) if _trained(call)]
        layers: list[Any] = [calls[i] for i in trained]
        if len(set(layers)) < len(layers):
            raise _NoChainError("a layer is used twice")
    except _NoChainError as error:
        raise UsageError(
            f"{name} trains a chain of linear and convolution layers, with only functions without "
            f"parameters between them, but {error}."
        ) from error
    starts, ends = [0, *(i for i in trained[1:])], [*trained[1:], len(calls)]
    return [
        Piece(calls[start:at], layer, calls[at + 1 : end])
        for start, at, end, layer in zip(starts, trained, ends, layers, strict=True)
    ]


class _NoChainError(Exception):
    """A model cannot be cut; the message says why."""


def _chain(model: nn.Module) -> list[Call]:
    try:
        nodes = list(fx.Tracer().trace(model).nodes)
    except Exception as error:  # whatever a user's forward does with a proxy
        raise _NoChainError(f"torch.fx cannot trace the model: {error}") from error
    before, calls = nodes[0], []
    for node in nodes[1:]:
        if node.op == "placeholder":
            continue
        if node.all_input_nodes != [before]:
            raise _NoChainError(f"'{node.name}' reads more than what comes just before it")
        if node.op != "output":
            calls.append(_call(model, node))
        before = node
    return calls


def _call(model: nn.Module, node: fx.Node) -> Call:
    target: Any = node.target
    if node.op == "call_module":
        target = model.get_submodule(target)
        held = [*target.parameters(), *target.buffers()]
        if held and type(target) not in LAYERS:
            raise _NoChainError(f"'{node.target}' is a {type(target).__name__}")
        if len(node.args) + len(node.kwargs) == 1:
            return target
    elif node.op == "call_method":
        target = getattr(torch.Tensor, target)

    def call(x: Tensor) -> Tensor:
        arguments, options = fx.node.map_arg((node.args, node.kwargs), lambda _: x)
        return target(*arguments, **options)

    return call


def _trained(call: Call) -> bool:
    return isinstance(call, nn.Module) and any(p.requires_grad for p in call.parameters())
