"""Watch, below Python, what the functions that a model calls look at, and whether they lose tangents."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
LOST = (
    "what runs below Python, as torch.jit.script and grad of torch.func do, was given a value with tangents, "
    "and would lose them in {operation}: leave it out of the model."
)
LOOK = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Watch(TorchDispatchMode):
    """While in force, sees operations that hand a value to Python, or whose result has a shape by values.

    It refuses those that are given what only stands for a value with tangents.

    Attributes:
        lost: why one was refused, in words; empty if none was.
    """

    def __init__(self, face: type) -> None:
        """`face`: the type of what stands for a value with tangents."""
        super().__init__()
        self.face, self.looked, self.lost = face, False, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and note whether it looks at values.

        Raises:
            NotImplementedError: tangents would be lost.
        """
        if any(isinstance(leaf, self.face) for leaf in tree_leaves((args, kwargs))):
            self.lost = LOST.format(operation=func)
            raise NotImplementedError(self.lost)
        if may_look(func) and looks(func, args, kwargs or {}):
            self.looked = True
        return func(*args, **(kwargs or {}))

    def saw_a_look(self) -> bool:
        """Whether there was such an operation since this was last asked."""
        looked, self.looked = self.looked, False
        return looked


@cache
def may_look(func: Any) -> bool:
    """Whether an operation looks at values, at least with some arguments."""
    return not LOOK.isdisjoint(func.tags)


def looks(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation that may look at values does so with these arguments."""
    if func is aten.index.Tensor:
        return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    if func is aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    return True
