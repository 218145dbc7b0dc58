"""The execution modes eager and compile: a function as it is, or through torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from fgbench.methods import Conditions
from fgbench.pushforward.context import draws_again, state_kept
from fgbench.pushforward.tangents import Tangent


def compiled(function: Callable[..., Any], conditions: Conditions) -> Callable[..., Any]:
    """The function in the group's execution mode.

    Under torch.compile random numbers stay those of eager mode, so that dropout drops the same units and a
    compiled step can be checked against the uncompiled one.
    """
    if not conditions.compiled:
        return function
    _keep_random_numbers()
    return torch.compile(function, dynamic=False)


def _keep_random_numbers() -> None:
    import torch._inductor.config as inductor

    inductor.fallback_random = True


class OneGraph:
    """A function of tensors, as a compiled graph for each choice of shapes and strides.

    It is traced to plain tensor operations, which torch.compile's own compiler is given. torch.compile itself
    would guard every rule and the identity of every parameter, and check these guards at every call; on a
    small model that takes longer than the step.
    """

    def __init__(self, function: Callable[..., Any], model: nn.Module | None = None) -> None:
        """`model` is the model whose state the function changes, if there is one."""
        self.function, self.model = function, nn.Identity() if model is None else model
        self.graphs: dict[Any, Callable[..., Any]] = {}

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Any:
        """The function's result; the function may write into the tensors given."""
        kind = tuple([(t.shape, t.stride(), t.dtype) for t in tensors])
        if kind not in self.graphs:
            self.graphs[kind] = self._compile(tensors)
        return self.graphs[kind](*tensors)

    def _compile(self, tensors: Sequence[Tensor]) -> Callable[..., Any]:
        # Tracing runs the function; on copies, so that it writes into the real tensors only once.
        copies = [t.detach().clone() for t in tensors]
        with draws_again(tensors[0].device), state_kept(self.model):
            graph = make_fx(self.function)(*copies)
        _keep_random_numbers()
        return torch._inductor.compile(graph, [t.detach() for t in tensors])  # type: ignore[no-any-return]


def tensors_of(tangent: Tangent) -> list[Tensor]:
    """The tensors of a tangent: its entries, or its factors."""
    return list(vars(tangent).values())


def with_tensors(like: list[Tangent], tensors: list[Tensor]) -> list[Tangent]:
    """Tangents of the same kinds as `like`, with these tensors."""
    supply = iter(tensors)
    return [type(t)(*(next(supply) for _ in tensors_of(t))) for t in like]
