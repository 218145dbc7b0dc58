"""Dropout whose masks do not depend on how a value lies in memory, to compare two ways of computing it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fgbench.pushforward.rules import of_names

DROPOUT = set(of_names("dropout"))


class MasksByIndex(TorchFunctionMode):
    """While in force, dropout draws its masks in the order of indices, however a value lies in memory.

    PyTorch draws in memory's order. Where a value lies in memory in one way for the engine and in another for
    PyTorch, as after a transposition, both would drop the same share, but not the same entries.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function; dropout as the product with a mask."""
        return _by_index(*args, **(kwargs or {})) if func in DROPOUT else func(*args, **(kwargs or {}))


def _by_index(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    train: bool | None = None,
) -> Tensor:
    if not (training if train is None else train) or p == 0:
        return input
    mask = F.dropout(torch.ones(input.shape, dtype=input.dtype, device=input.device), p)
    return input.mul_(mask) if inplace else input * mask
