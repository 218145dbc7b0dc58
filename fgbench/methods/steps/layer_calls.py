"""Intercept the operations of layers under reverse mode, to check steps that put noise on their outputs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fgbench.pushforward.activity import LAYERS
from fgbench.pushforward.course import body_of
from fgbench.pushforward.rules import of_names, read_all

# Requests for gradients by reverse mode, which `torch.func.jvp` refuses.
REQUESTS = set(of_names("requires_grad_", "retain_grad", "register_hook"))


class Layers(TorchFunctionMode):
    """While in force, hands every layer operation that the model runs to the method `layer`."""

    def __init__(self, wanted: Collection[int] | None) -> None:
        """`wanted`: the numbers of the operations that are perturbed; None for all."""
        super().__init__()
        self.wanted, self.met = wanted, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        body = body_of(func)
        if body is not None:
            with self:
                return body(*args, **(kwargs or {}))
        if func in LAYERS and torch.is_grad_enabled() and not _under_vmap():
            return self.layer(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def layer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run in place of the operation `func` of a layer; gives its output."""
        raise NotImplementedError

    def perturbed(self) -> bool:
        """Whether the current operation is one of those wanted; each call counts one operation as met."""
        self.met += 1
        return self.wanted is None or self.met - 1 in self.wanted


def _under_vmap() -> bool:
    """Whether a vmap is running, whose function gets other tensors than the parameters: it has no layers."""
    innermost = torch._C._functorch.peek_interpreter_stack()
    return innermost is not None and innermost.key() == torch._C._functorch.TransformType.Vmap


@dataclass(frozen=True)
class Call:
    """One call of a layer's operation, kept so that reverse mode can be asked about it afterwards."""

    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    output: Tensor

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters among its arguments that are trained."""
        given = (*self.arguments, *self.options.values())
        return [p for p in given if isinstance(p, nn.Parameter) and p.requires_grad]

    def again(self) -> Tensor:
        """The output computed again as a function of its own parameters alone.

        Its inputs are detached, so that a weight that an earlier layer uses as well is not counted twice.
        """

        def alone(leaf: Any) -> Any:
            return leaf.detach() if isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter) else leaf

        named = {key: alone(leaf) for key, leaf in self.options.items()}
        return self.function(*map(alone, self.arguments), **named)


class Calls(Layers):
    """Remembers the calls of layers whose parameters are trained."""

    def __init__(self, wanted: Collection[int] | None) -> None:
        super().__init__(wanted)
        self.calls: list[Call] = []

    def layer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operation and remember it; the model gets a copy, which it may overwrite in place."""
        call = Call(func, args, kwargs, func(*args, **kwargs))
        if not call.parameters or not self.perturbed():
            return call.output
        self.calls.append(call)
        return call.output.clone()


class Still(Layers):
    """While in force, layers compute with the model's own parameters, even if others stand in for them.

    Args:
        own: the model's own tensors, by the id of the tensor that stands in for each.
        trained: the ids of the trained parameters and of the tensors that stand in for them.
        wanted: as in `Layers`.
    """

    def __init__(self, own: dict[int, Tensor], trained: set[int], wanted: Collection[int] | None) -> None:
        super().__init__(wanted)
        self.own, self.trained = own, trained

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Requests for gradients are passed over; all else is as in `Layers`."""
        if func in REQUESTS:
            return read_all()[func](None, *args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def layer(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operation with the model's own parameters."""
        if not any(id(leaf) in self.trained for leaf in (*args, *kwargs.values())) or not self.perturbed():
            return func(*args, **kwargs)
        named = {key: self.own.get(id(leaf), leaf) for key, leaf in kwargs.items()}
        return func(*(self.own.get(id(leaf), leaf) for leaf in args), **named)
