"""Plain tensors into which something that moves was written, as into zeros that are filled row by row."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, moving


class Written:
    """From the first such write on, a `Dual` stands for the tensor, and views of that for its views."""

    def __init__(self, context: Context, record: Any = None) -> None:
        """`record` is told of what is made here; None where nothing is recorded."""
        self.context, self.record = context, record
        self.duals: dict[int, tuple[Tensor, Dual]] = {}

    def become(self, tensor: Tensor, dual: Dual) -> None:
        """From now on `dual` stands for the tensor."""
        dual.spare = False  # the model may read it more than once
        self.duals[id(tensor)] = (tensor, dual)

    def now(self, tensor: Any) -> Any:
        """What stands for a tensor; the tensor itself where nothing was written into it.

        Raises:
            NotImplementedError: it is a view of one that does not lie in memory row by row, or of other bits.
        """
        if id(tensor) in self.duals:
            return self.duals[id(tensor)][1]
        base = tensor._base if isinstance(tensor, Tensor) else None
        if base is None or id(base) not in self.duals:
            return tensor
        whole = self.duals[id(base)][1]
        by_row = base.is_contiguous() and whole.primal.is_contiguous()
        if not by_row or base.dtype != tensor.dtype or tensor.is_conj():
            raise NotImplementedError("what moves is written into a view of what does not")
        offset = tensor.storage_offset() - base.storage_offset()
        return self._made(_seen, whole, tensor.shape, tensor.stride(), offset)

    def opened(self, view: Tensor) -> Any:
        """A view of a plain tensor, which is about to be written into, as a view of what stands for that."""
        if id(view._base) not in self.duals:
            self.become(view._base, self._made(_moved, view._base))  # type: ignore[arg-type]
        return self.now(view)

    def _made(self, how: Any, *arguments: Any) -> Dual:
        out: Dual = how(self.context, *arguments)
        if self.record is not None:
            self.record(how, True, arguments, {}, out)
        return out


def _moved(context: Context, tensor: Tensor) -> Dual:
    return moving(tensor, context.count)


def _seen(context: Context, whole: Dual, shape: Any, stride: Any, offset: int) -> Dual:
    """A view of what stands for a tensor that lies in memory row by row."""
    stack = whole.stack
    sizes, strides = (len(stack), *shape), (stack.stride(0), *stride)
    return Dual(stack.as_strided(sizes, strides, stack.storage_offset() + offset))
