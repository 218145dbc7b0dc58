"""Turn a function of tensors into straight-line code of torch calls, with every decision made beforehand.

The function is traced to plain operations. Parameters and kept tangents stay at one place in memory, so
that views of them are taken once, while tracing; other views are taken once a call. An operation is called
through torch's own function where there is one, which reads its arguments faster. What is left to do in a
call is the arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx

from fgbench.pushforward.program import Instruction, Record, Slot

aten = torch.ops.aten

SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}
NUMBERS = {aten.ones.default, aten.full.default}
# Overloads of an operation whose arguments torch's own function takes unchanged.
OF_TENSORS = {"default", "Tensor", "Scalar", "out", "int", "dim", "dim_IntList", "grad_input"}


def flat(function: Callable[..., Any], *tensors: Tensor) -> Callable[..., Any]:
    """Trace a function, once and on copies of `tensors`, and give its straight-line code.

    The code is called with a context (or None) and tensors of the same shapes. The function may write into
    its arguments and into tensors that it closes over; the latter must stay where they are in memory.
    """
    with _shapes_alone():
        graph = make_fx(function)(*(t.detach().clone() for t in tensors))
    return _Straight(graph).code()


@contextmanager
def _shapes_alone() -> Iterator[None]:
    """Inside, a trace notes of each value where its entries would be, which is all that is read here.

    torch notes a fake tensor, and makes a mode for each: three quarters of the time of a trace.
    """
    before = proxy_tensor.extract_val

    def noted(value: Any, *given: Any, **named: Any) -> Any:
        if type(value) in (list, tuple):
            return type(value)(map(noted, value))
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
            return before(value, *given, **named)
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    proxy_tensor.extract_val = noted  # type: ignore[assignment]
    try:
        yield
    finally:
        proxy_tensor.extract_val = before


class _Straight:
    """Turns a traced graph into the instructions of a `Record`."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph, self.record, self.numbers = graph, Record(), count()
        self.known: dict[fx.Node, Any] = {}  # by node, its slot, or its value if that is fixed
        self.views: dict[Any, Any] = {}
        self.inputs = 0
        self.written = {
            base for node in graph.graph.nodes if _writes(node) for base in map(_base, node.all_input_nodes)
        }

    def code(self) -> Callable[..., Any]:
        """The graph as a function of a context and the graph's inputs."""
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
        how = _callable(target, arguments)
        self.record.instructions.append(Instruction(how, False, arguments, options, results))

    def _results(self, node: Any) -> Any:
        """The slot of a node's output; of a node with several outputs, the slots of those that are read."""
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
        """Whether the value is the same at every call: a view of fixed memory, or a constant number."""
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
    """The dimension, start and length of a slice; None where it has gaps or counts from the end."""
    given: list[Any] = list(node.args)
    _, dim, start, _, step = given + [None, 0, 0, None, 1][len(given) :]
    size = node.args[0].meta["val"].shape[dim]
    if step != 1 or not isinstance(start, int) or not 0 <= start <= size:
        return None
    return dim, start, node.meta["val"].shape[dim]


def _is_view(node: Any) -> bool:
    """Whether the operation gives a single view of its argument."""
    return getattr(node.target, "is_view", False) and isinstance(node.meta.get("val"), Tensor)


def _writes(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _base(node: Any) -> Any:
    """The node that owns the memory which a chain of views looks at."""
    while getattr(node.target, "is_view", False):
        node = node.all_input_nodes[0]
    return node


def _plain(value: Any) -> Any:
    """A parameter as a plain tensor in the same memory; anything else as it is."""
    return value.detach() if isinstance(value, Tensor) else value


def _callable(target: Any, arguments: Any) -> Callable[..., Any]:
    """Torch's own function for an operation, whose arguments are read faster than the operation's.

    The operation itself where torch's own is written in Python, with arguments of its own, or where a list
    among the arguments has gaps, as an index may, which torch's own does not take, or where it is a loss:
    torch.binary_cross_entropy_with_logits takes no mean unless it is told to.
    """
    if not isinstance(target, torch._ops.OpOverload):
        return target  # type: ignore[no-any-return]
    if any(argument.name == "reduction" for argument in target._schema.arguments):
        return target._op
    gaps = any(isinstance(leaf, list) and None in leaf for leaf in arguments)
    if not gaps and target.namespace == "aten" and target._overloadname in OF_TENSORS:
        name = target._opname
        method = target.is_view or name.endswith("_") or name.startswith("new_")
        space = Tensor if method else torch
        own = getattr(space, name, None)
        if own is not None and not isinstance(own, FunctionType):
            return own  # type: ignore[no-any-return]
    return target._op


def _flat(tree: Any) -> list[Any]:
    found: list[Any] = []
    fx.node.map_aggregate(tree, found.append)
    return found


def _comparable(arguments: Any) -> bool:
    return not any(isinstance(leaf, Tensor) for leaf in _flat(arguments))
