"""Execution modes: a function as it is, or through torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from fgbench.methods import Conditions
from fgbench.pushforward.context import buffers_kept, draws_again
from fgbench.pushforward.tangents import Tangent


def compiled(function: Callable[..., Any], conditions: Conditions) -> Callable[..., Any]:
    """The function in the group's execution mode.

    Random numbers stay PyTorch's own under torch.compile, so that dropout drops what it drops in
    eager mode and a compiled step can be held against the uncompiled one.
    """
    if not conditions.compiled:
        return function
    import torch._inductor.config as inductor

    inductor.fallback_random = True
    return torch.compile(function, dynamic=False)


class OneGraph:
    """A function of tensors as one compiled graph for each of their shapes.

    It is traced to plain tensor operations first: torch.compile would look into every rule, and
    into the identity of every parameter, at every call.
    """

    def __init__(
        self, function: Callable[..., Any], conditions: Conditions, model: nn.Module | None = None
    ) -> None:
        """`model` is the one whose buffers the function moves, if it does."""
        self.function, self.conditions = function, conditions
        self.model = model or nn.Identity()
        self.graphs: dict[tuple[torch.Size, ...], Callable[..., Any]] = {}

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Any:
        """The function's result; it may write into the tensors given."""
        shapes = tuple(t.shape for t in tensors)
        if shapes not in self.graphs:
            # Tracing runs the function: on copies, so that what it writes is written once.
            copies = [t.detach().clone() for t in tensors]
            with draws_again(tensors[0].device), buffers_kept(self.model):
                graph = make_fx(self.function)(*copies)
            self.graphs[shapes] = compiled(graph, self.conditions)
        return self.graphs[shapes](*tensors)


def tensors_of(tangent: Tangent) -> list[Tensor]:
    """What a tangent holds: its entries, or its factors."""
    return list(vars(tangent).values())


def with_tensors(like: list[Tangent], tensors: list[Tensor]) -> list[Tangent]:
    """Tangents of the same kinds that hold these tensors."""
    supply = iter(tensors)
    return [type(t)(*(next(supply) for _ in tensors_of(t))) for t in like]
