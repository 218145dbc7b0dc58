"""Frozen parameters that a model's forward writes into, as into a slow copy of a network in MoCo or BYOL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WRITTEN: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()  # by the first pass
_KEPT: WeakKeyDictionary[nn.Module, list[Tensor]] = WeakKeyDictionary()  # in all others


@contextmanager
def frozen_kept(model: nn.Module) -> Iterator[None]:
    """Set frozen parameters that are written into back at the end.

    Which these are is found out at the first pass, as few models write into any, and a copy of all of them
    would take as much memory as the model. All are set back in a model that counts its passes: it may write
    at every tenth. What another model writes later only is not set back.
    """
    if model not in _WRITTEN:
        frozen = _frozen(model)
        counts = _numbers(model) if frozen else {}
        with _found(frozen) as found:
            yield
        _WRITTEN[model] = found
        _KEPT[model] = frozen if frozen and _counted(counts, _numbers(model)) else found
        return
    before = [(p, p.data, p.detach().clone()) for p in _KEPT[model]]
    try:
        yield
    finally:
        for parameter, place, value in before:
            _put_back(parameter, place, value)


def written_frozen(model: nn.Module) -> list[Tensor] | None:
    """The frozen parameters that a forward writes into; None if no pass within `frozen_kept` was made yet."""
    if all(p.requires_grad for p in model.parameters()):
        return []
    return _WRITTEN.get(model)


def _frozen(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if not p.requires_grad and _can_be_written(p)]


def _numbers(model: nn.Module) -> dict[Any, float]:
    """The numbers in a model's attributes and buffers that may count its passes; batch norm has some too."""
    held = [
        (path, m) for path, m in model.named_modules() if not isinstance(m, nn.modules.batchnorm._NormBase)
    ]
    return {
        (path, name, place): float(leaf)
        for path, module in held
        for name, value in vars(module).items()
        for place, leaf in enumerate(tree_leaves(value))
        if _is_number(leaf)
    }


def _is_number(leaf: Any) -> bool:
    if _can_be_written(leaf):
        return leaf.numel() == 1 and not leaf.is_complex() and not leaf.requires_grad
    return isinstance(leaf, int | float) and not isinstance(leaf, bool)


def _counted(before: dict[Any, float], after: dict[Any, float]) -> bool:
    """Whether some number went up by a whole one."""
    return any(
        after[key] > old and (after[key] - old) % 1 == 0 for key, old in before.items() if key in after
    )


@contextmanager
def _found(frozen: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Set frozen parameters that are written into back at the end, and list them."""
    places, writes = [p.data for p in frozen], _Writes(frozen)
    found: list[Tensor] = []
    try:
        with writes if frozen else nullcontext():
            yield found
    finally:
        for parameter, place in zip(frozen, places, strict=True):
            value = writes.before.get(id(parameter))
            if value is not None or _memory(parameter) != _memory(place):
                _put_back(parameter, place, value)
                found.append(parameter)


def _put_back(parameter: Tensor, place: Tensor, value: Tensor | None) -> None:
    """Give a parameter its memory of before, as `data` may be set, and the value that was there."""
    if _memory(parameter) != _memory(place):
        parameter.data = place
    if value is not None:
        place.copy_(value)  # unlike the parameter, this does not count as a write that reverse mode refuses


class _Writes(TorchDispatchMode):
    """While in force, keeps what parameters held before they are written into.

    Attributes:
        before: by the id of a parameter that was written into, its value before the first such write.
    """

    supports_higher_order_operators = True

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.by_memory = {_memory(p): p for p in parameters}
        self.before: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and keep before what it writes into."""
        schema = getattr(func, "_schema", None)
        if schema is not None and schema.is_mutable:
            for leaf in tree_leaves(_written(schema, args, kwargs or {})):
                self._keep(leaf)
        return func(*args, **(kwargs or {}))

    def _keep(self, leaf: Any) -> None:
        parameter = self.by_memory.get(_memory(leaf)) if _can_be_written(leaf) else None
        if parameter is not None and id(parameter) not in self.before:
            self.before[id(parameter)] = parameter.detach().clone()


def _written(schema: Any, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that an operation writes into."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    names = {a.name for a, writes in zip(schema.arguments, written, strict=True) if writes}
    placed = [arg for arg, writes in zip(args, written, strict=False) if writes]
    return [*placed, *(value for name, value in kwargs.items() if name in names)]


def _can_be_written(leaf: Any) -> bool:
    plain = isinstance(leaf, Tensor) and type(leaf) in (Tensor, nn.Parameter)
    return plain and leaf.layout == torch.strided


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
