"""A model as a list of instructions, traced with torch.fx: leaf layers, functions, and what they read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fgbench.pushforward.context import Context, buffers_kept, moves
from fgbench.pushforward.dual import Dual, duals_in, map_duals, primal_of
from fgbench.pushforward.fallback import by_jvp, module_by_jvp
from fgbench.pushforward.rules import (
    NoRuleError,
    Rule,
    by_position,
    rule_of_function,
    rule_of_module,
    takes,
)


@dataclass(frozen=True)
class Instruction:
    """One node of the graph.

    Attributes:
        node: its name, unique in the program.
        kind: `call_module`, `call_function`, `call_method` or `get_attr`.
        target: the module, function, method's name, or attribute's path.
        arguments, options: what it is called with, nodes standing for their values.
        only_input: the name of the one node that it is called with, where that is all.
        rule: its rule, None where it has none.
        parameters: the ids of a module's parameters.
        dead: nodes that nothing reads after it.
        sole_reader: whether one instruction alone reads what it gives.
        still: whether the model runs it under `no_grad`: then nothing moves.
    """

    node: str
    kind: str
    target: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    only_input: str | None
    rule: Rule | None
    parameters: tuple[int, ...]
    dead: tuple[str, ...]
    sole_reader: bool
    still: bool


class _Tracer(fx.Tracer):
    """Leaves are layers with a rule, and what torch.nn holds; a user's own forward is traced through.

    A graph does not hold in which contexts operations run: `no_grad` is remembered here, autocast refused.
    """

    def create_node(self, *arguments: Any, **options: Any) -> fx.Node:
        if any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
            raise NotImplementedError("autocast in its forward")
        node = super().create_node(*arguments, **options)
        node.meta["still"] = not torch.is_grad_enabled()
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return rule_of_module(m) is not None or super().is_leaf_module(m, module_qualified_name)


class _Whole(nn.Module):
    """The model with its first input alone, the others at their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


class Program:
    """A traced model.

    Attributes:
        fallbacks: what ran without a rule, in words; filled as it runs.
        course: the operations that tracing met, as text: two traces may differ in them.
    """

    def __init__(self, model: nn.Module) -> None:
        """Trace `model`; whatever tracing raises for control flow on data goes through."""
        self.model = model
        self.fallbacks: set[str] = set()
        whole = _Whole(model)
        with torch.enable_grad():
            graph = _Tracer().trace(whole)
        self.course = str(graph)
        (self.input,) = [n.name for n in graph.nodes if n.op == "placeholder"]
        self.instructions, self.output = _compiled(whole, graph)
        held = [i.target for i in self.instructions if i.kind == "get_attr"]
        # Parameters of no layer, that a forward uses by themselves.
        self.free_parameters = {id(p) for p in held if isinstance(p, nn.Parameter)}

    def __call__(self, context: Context, x: Any) -> Any:
        """The model's output: a `Dual`, or a plain tensor if nothing moved; `x` may move already."""
        values: dict[str, Any] = {self.input: x}
        for instruction in self.instructions:
            arguments, options = _given(instruction, values)
            value = self._run(context, instruction, arguments, options)
            values[instruction.node] = value if instruction.sole_reader else map_duals(_kept, value)
            del arguments, options
            for name in instruction.dead:
                del values[name]
        return fx.node.map_arg(self.output, lambda n: values[n.name])

    def _run(self, context: Context, todo: Instruction, arguments: Any, options: Any) -> Any:
        if todo.kind == "get_attr":
            return todo.target
        if todo.still:
            arguments, options = map_duals(primal_of, (arguments, options))
            with buffers_kept(todo.target if todo.kind == "call_module" else None, not context.first):
                return _plain(todo)(*arguments, **options)
        if todo.kind == "call_module":
            output = self._module(context, todo, arguments, options)
            return context.after(todo.node, todo.target, arguments, output)
        moving = [a for a in _leaves((arguments, options)) if moves(a, context)]
        if not moving:
            return _plain(todo)(*arguments, **options)
        if todo.rule is not None:
            try:
                given = arguments, options
                if not _takes_parameters(todo.rule):
                    given = fx.node.map_aggregate(given, context.dual)
                return todo.rule(context, *given[0], **given[1])
            except NoRuleError:
                pass
        self.fallbacks.add(f"function {_name(todo.target)}: torch.func.jvp")
        arguments, options = fx.node.map_aggregate((arguments, options), context.dual)
        return by_jvp(context, _plain(todo), arguments, options)

    def _module(self, context: Context, todo: Instruction, arguments: Any, options: Any) -> Any:
        module: nn.Module = todo.target
        if todo.only_input is not None:
            arguments = (context.dual(arguments[0]),)
            moving = isinstance(arguments[0], Dual)
        else:
            arguments, options = fx.node.map_aggregate((arguments, options), context.dual)
            moving = bool(duals_in((arguments, options)))
        inside = context.in_layers
        if not moving and not inside.perturbs(todo.parameters):
            with buffers_kept(module, not context.first):
                return module(*arguments, **options)
        if todo.rule is not None:
            try:
                return todo.rule(inside, module, *arguments, **options)
            except NoRuleError:
                pass
        self.fallbacks.add(f"module {type(module).__name__}: torch.func.jvp")
        return module_by_jvp(inside, module, arguments, options)


def _given(todo: Instruction, values: dict[str, Any]) -> tuple[Any, Any]:
    if todo.only_input is not None:
        return (values[todo.only_input],), todo.options
    return fx.node.map_arg((todo.arguments, todo.options), lambda n: values[n.name])


def _kept(value: Dual) -> Dual:
    return Dual(value.stack)


def _compiled(model: nn.Module, graph: fx.Graph) -> tuple[list[Instruction], Any]:
    last_use: dict[str, fx.Node] = {}
    for node in graph.nodes:
        for used in node.all_input_nodes:
            last_use[used.name] = node
    instructions, output = [], None
    for node in graph.nodes:
        if node.op == "output":
            output = node.args[0]
        elif node.op != "placeholder":
            dead = tuple(name for name, last in last_use.items() if last is node)
            instructions.append(_instruction(model, node, dead))
    return instructions, output


def _instruction(model: nn.Module, node: fx.Node, dead: tuple[str, ...]) -> Instruction:
    target, is_module = _resolved(model, node), node.op == "call_module"
    rule = rule_of_module(target) if is_module else rule_of_function(node.target)
    arguments, options = node.args, dict(node.kwargs)
    if rule is not None:
        placed = by_position(arguments, options)
        if takes(rule, None, *([target] if is_module else []), *placed[0], **placed[1]):
            arguments, options = placed
        else:
            rule = None
    only = arguments[0] if len(arguments) == 1 and not options else None
    return Instruction(
        node.name,
        node.op,
        target,
        arguments,
        options,
        only.name if isinstance(only, fx.Node) else None,
        rule,
        tuple(id(p) for p in target.parameters()) if is_module else (),
        dead,
        len(node.users) == 1,
        bool(node.meta["still"]),
    )


def _resolved(model: nn.Module, node: fx.Node) -> Any:
    if node.op == "call_module":
        return model.get_submodule(str(node.target))
    if node.op == "get_attr":
        found: Any = model
        for name in str(node.target).split("."):
            found = getattr(found, name)
        return found
    return node.target


def _takes_parameters(rule: Any) -> bool:
    """Rules of layers know a parameter's tangents by themselves and keep them factored."""
    return rule.__module__.endswith(".linear")


def _plain(todo: Instruction) -> Any:
    if todo.kind != "call_method":
        return todo.target
    return lambda self, *arguments, **options: getattr(self, todo.target)(*arguments, **options)


def _leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    fx.node.map_aggregate(tree, found.append)
    return found


def _name(target: Any) -> str:
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))
