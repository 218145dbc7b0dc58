"""Turn a function of tensors into straight-line torch calls, with every decision made beforehand.

It is traced to plain operations. Views of what lies in one place, as parameters do and tangents that are
kept, are taken once; a view that was taken already is not taken again; an operation is called by torch's
own function where there is one. What is left in a call is the arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fgbench.pushforward.program import Instruction, Record, Slot

aten = torch.ops.aten

SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}
NUMBERS = {aten.ones.default, aten.full.default}
# Overloads whose arguments torch's own function takes as they are.
OF_TENSORS = {"default", "Tensor", "Scalar", "out", "int", "dim", "dim_IntList", "grad_input"}


def flat(function: Callable[..., Any], *tensors: Tensor) -> Callable[..., Any]:
    """The function as straight-line code, which is called with a context, or None, and such tensors.

    It may write into what it is given, and into tensors that it knows by itself, which it must go on
    finding where they are. It is run once for this, on copies of the tensors.
    """
    graph = make_fx(function)(*(t.detach().clone() for t in tensors))
    return _Straight(graph).code()


class _Straight:
    """Instructions of a traced graph."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph, self.record, self.numbers = graph, Record(), count()
        self.known: dict[fx.Node, Any] = {}  # of each node its slot, or its value where that is fixed
        self.views: dict[Any, Any] = {}
        self.inputs = 0
        self.written = {
            base for node in graph.graph.nodes if _writes(node) for base in map(_base, node.all_input_nodes)
        }

    def code(self) -> Callable[..., Any]:
        """As a function."""
        output: Any = None
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.known[node] = Slot(next(self.numbers))
                self.inputs += 1
            elif node.op == "get_attr":
                self.known[node] = _plain(getattr(self.graph, node.target))
            elif node.op == "output":
                output = self._given(node.args[0])
            elif node not in self.known:
                self._call(node)
        return self.record.code(self.inputs, output)

    def _call(self, node: Any) -> None:
        target: Any = node.target
        if target in SAME or _to_its_own_shape(node):
            self.known[node] = self.known[node.args[0]]
            return
        arguments, options = self._given(node.args), self._given(node.kwargs)
        if self._is_fixed(node, arguments, options):
            with torch.no_grad():
                self.known[node] = target(*arguments, **options)
            return
        if _is_view(node):
            if not node.users:
                return
            key = repr((target, arguments, options)) if _comparable(arguments) else id(node)
            if key in self.views:
                self.known[node] = self.views[key]
                return
            self.views[key] = self.known[node] = Slot(next(self.numbers))
        results = self._results(node)
        if target is aten.slice.Tensor and (range_ := _range(node)):
            target, arguments = Tensor.narrow, (arguments[0], *range_)
        self.record.instructions.append(Instruction(_callable(target), False, arguments, options, results))

    def _results(self, node: Any) -> Any:
        """Slots of what it gives: one, or of several those that are read."""
        parts = [user for user in node.users if user.target is operator.getitem]
        if not parts or len(parts) < len(node.users):
            return self.known.setdefault(node, Slot(next(self.numbers)))
        found: list[Any] = [None] * (1 + max(part.args[1] for part in parts))
        for part in parts:
            slot = found[part.args[1]] = found[part.args[1]] or Slot(next(self.numbers))
            self.known[part] = slot
        return tuple(found)

    def _given(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self._given(leaf) for leaf in tree]
        if isinstance(tree, tuple):
            return tuple(self._given(leaf) for leaf in tree)
        if isinstance(tree, dict):
            return {key: self._given(leaf) for key, leaf in tree.items()}
        return self.known[tree] if isinstance(tree, fx.Node) else tree

    def _is_fixed(self, node: Any, arguments: Any, options: Any) -> bool:
        """Whether it is the same at every call: a view of what stays in its place, or a number of its own."""
        if any(isinstance(leaf, Slot) for leaf in _flat((arguments, options))):
            return False
        if _is_view(node):
            return True
        return node.target in NUMBERS and node not in self.written and node.meta["val"].dim() == 0


def _to_its_own_shape(node: Any) -> bool:
    if node.target not in {aten.view.default, aten._unsafe_view.default}:
        return False
    return bool(node.args[0].meta["val"].shape == node.meta["val"].shape)


def _range(node: Any) -> tuple[int, int, int] | None:
    """Of a slice without gaps, the dimension, where it starts and how long it is."""
    given: list[Any] = list(node.args)
    _, dim, start, _, step = given + [None, 0, 0, None, 1][len(given) :]
    size = node.args[0].meta["val"].shape[dim]
    if step != 1 or not isinstance(start, int) or not 0 <= start <= size:
        return None
    return dim, start, node.meta["val"].shape[dim]


def _is_view(node: Any) -> bool:
    """Whether it gives one view of what it is given."""
    return getattr(node.target, "is_view", False) and isinstance(node.meta.get("val"), Tensor)


def _writes(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _base(node: Any) -> Any:
    """What a view is of."""
    while getattr(node.target, "is_view", False):
        node = node.all_input_nodes[0]
    return node


def _plain(value: Any) -> Any:
    """A parameter without its wrapping, in the same memory."""
    return value.detach() if isinstance(value, Tensor) else value


def _callable(target: Any) -> Callable[..., Any]:
    """Torch's own function of an operation: its arguments are read faster than the operation's."""
    if not isinstance(target, torch._ops.OpOverload):
        return target  # type: ignore[no-any-return]
    if target.namespace == "aten" and target._overloadname in OF_TENSORS:
        name = target._opname
        method = target.is_view or name.endswith("_") or name.startswith("new_")
        space = Tensor if method else torch
        own = getattr(space, name, None)
        if own is not None:
            return own  # type: ignore[no-any-return]
    return target._op


def _flat(tree: Any) -> list[Any]:
    found: list[Any] = []
    fx.node.map_aggregate(tree, found.append)
    return found


def _comparable(arguments: Any) -> bool:
    return not any(isinstance(leaf, Tensor) for leaf in _flat(arguments))
