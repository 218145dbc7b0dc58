"""Push tangents through a function by reverse mode, to check what forward mode gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fgbench.pushforward.context import draws_again
from fgbench.pushforward.fallback import PaddingStill


def pushed(
    function: Callable[[dict[str, Tensor]], tuple[Tensor, ...]],
    given: dict[str, Tensor],
    tangents: dict[str, Tensor],
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """A function's values, and J ẋ, by the backward pass; by `torch.func.jvp` if that has no derivative.

    PyTorch's forward mode goes through `no_grad`, and gives zeros behind operations of other libraries.
    """
    try:
        with draws_again(next(iter(given.values())).device):
            return _by_backward(function, given, tangents)
    except RuntimeError:
        with PaddingStill():
            values, moves = torch.func.jvp(function, (given,), (tangents,))  # type: ignore[misc]
        return values, moves


def _by_backward(
    function: Callable[[dict[str, Tensor]], tuple[Tensor, ...]],
    given: dict[str, Tensor],
    tangents: dict[str, Tensor],
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """J ẋ by the backward pass: Jᵀu is linear in u, and its derivative by u, along ẋ, is J ẋ."""
    with torch.enable_grad():
        given = {name: tensor.detach().requires_grad_() for name, tensor in given.items()}
        values = function(given)
        moving = [value for value in values if value.requires_grad]
        moves: Sequence[Tensor] = ()
        if moving:
            slopes = [torch.ones_like(value).requires_grad_() for value in moving]
            pulled = torch.autograd.grad(
                moving, list(given.values()), slopes, create_graph=True, materialize_grads=True
            )
            along = [(p * t).sum() for p, t in zip(pulled, tangents.values(), strict=True)]
            moves = torch.autograd.grad(torch.stack(along).sum(), slopes, materialize_grads=True)
    supply = iter(moves)
    return values, [next(supply) if value.requires_grad else torch.zeros_like(value) for value in values]
