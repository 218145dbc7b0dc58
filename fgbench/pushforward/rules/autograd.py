"""What asks for gradients of a value by reverse mode, which there are none of in a forward pass."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from fgbench.pushforward.context import Context
from fgbench.pushforward.rules import RULES, rule

NO_GRADIENTS = (
    "the model or its loss asks for gradients by reverse mode, as physics-informed networks and gradient "
    "penalties do: forward gradients of such a model are not supported."
)


@rule("requires_grad_", raw=True)
def requires_grad_(context: Context, x: Any, requires_grad: bool = True) -> Any:
    """The value itself, which has gradients as it is."""
    return x


@rule("retain_grad", raw=True)
def retain_grad(context: Context, x: Any) -> None:
    """No gradient comes that could be kept."""


@rule("register_hook", raw=True)
def register_hook(context: Context, x: Any, hook: Any) -> RemovableHandle:
    """The hook is never called: one that changes gradients is no part of the loss that is differentiated."""
    return RemovableHandle(OrderedDict())


def gradients(context: Context, *_: Any, **__: Any) -> Any:
    """Raise: gradients that the model itself asks for would have tangents, of second derivatives.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(NO_GRADIENTS)


RULES[torch.autograd.grad] = gradients
rule("backward")(gradients)
