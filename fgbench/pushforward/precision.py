"""The lowest precision that a computation goes through, which decides what error counts as rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PrecisionsMet(TorchDispatchMode):
    """Remembers the floating dtypes of everything computed while it is in force.

    Attributes:
        met: the dtypes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note the dtypes of its results."""
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                self.met.add(leaf.dtype)
        return output

    def loosest(self, tolerances: Mapping[torch.dtype, float]) -> float:
        """The largest tolerance of a dtype met; 0 where none of them has one."""
        return max((tolerances.get(dtype, 0.0) for dtype in self.met), default=0.0)
