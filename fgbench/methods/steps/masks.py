"""Dropout whose masks do not depend on how a value lies in memory, to compare two ways of computing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
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


@contextmanager
def masks_by_index(model: nn.Module) -> Iterator[None]:
    """Inside, dropout draws its masks by index, also that of attention and of recurrent layers on a GPU.

    Its kernels for these draw masks of their own; PyTorch's plain ways to compute the same call dropout.
    """
    recurrent = any(isinstance(m, nn.RNNBase) and m.dropout and m.num_layers > 1 for m in model.modules())
    with MasksByIndex(), sdpa_kernel(SDPBackend.MATH), _without_cudnn() if recurrent else nullcontext():
        yield


@contextmanager
def _without_cudnn() -> Iterator[None]:
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


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
