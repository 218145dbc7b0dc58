"""Run a model's own Python on values with tangents: each function of torch that it calls runs by its rule.

A value "moves" if it depends on what is perturbed, and so has tangents; else it "stands still".
"""

from __future__ import annotations

import types as python
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, Rows, primal_of
from fgbench.pushforward.fallback import by_jvp, by_what, is_own
from fgbench.pushforward.kinds import ITSELF, OF_ITSELF, READS, STILL, SWITCHES, TURNED, deciding
from fgbench.pushforward.rules import RAW, NoRuleError, by_position, read_all, takes
from fgbench.pushforward.rules.activations import into
from fgbench.pushforward.watch import Watch
from fgbench.pushforward.written import Written

_NOTHING = torch.empty(0)
AUGMENTED = {f"__i{name}__" for name in ("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow")}


class Face(Tensor):
    """What a model's own Python sees in place of a `Dual`: a tensor without storage.

    Attributes:
        dual: what it stands for.
    """

    dual: Dual

    @staticmethod
    def __new__(cls, dual: Dual) -> Face:
        """Wrap a value that moves."""
        self = Tensor._make_subclass(cls, _NOTHING)
        self.dual = dual
        return self

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run functions that are called outside a course, as in printing, by the same rules."""
        face = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Face))
        return Course(Context(face.dual.count, {})).__torch_function__(func, types, args, kwargs)


class Course(TorchFunctionMode):
    """A pass through a model's own Python.

    Attributes:
        context: holds the tangents of parameters.
        fallbacks: what ran without a rule, in words.
        record: is told of every operation; None where nothing is recorded.
        watch: sees what is computed below Python; None where the course is not the first one.
    """

    def __init__(
        self,
        context: Context,
        fallbacks: set[str] | None = None,
        record: Any = None,
        *,
        watched: bool = False,
    ) -> None:
        """Begin a pass; what is recorded is watched as well."""
        super().__init__()
        self.context = context
        self.fallbacks = set() if fallbacks is None else fallbacks
        self.record, self.watch = record, Watch(Face) if watched or record is not None else None
        self.rules = read_all()
        self.written = Written(context, record)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function of torch, by its rule where something moves."""
        if func in SWITCHES:
            return func(*args, **(kwargs or {}))
        moves = torch.is_grad_enabled()
        if moves:
            torch._C._set_grad_enabled(False)
        try:
            return self._run(func, args, kwargs or {}, moves)
        finally:
            if moves:
                torch._C._set_grad_enabled(True)

    def _run(self, func: Any, args: Any, kwargs: Any, moves: bool) -> Any:
        given, named = self._bare(args), self._bare(kwargs) if kwargs else kwargs
        if getattr(func, "__name__", "") == "__get__" and func.__self__.__name__ not in TURNED:
            return self._attribute(func, given)
        if func in ITSELF and given and isinstance(given[0], nn.Parameter):
            cast = func(*_map(primal_of, given), **_map(primal_of, named))
            if cast is given[0]:  # a rule would give its tangents another form, and hide a layer
                return cast
        how = self._noisy(func, given, named) if self.context.noisy and moves else None
        moving = self._moves((given, named))
        if moving and (not moves or func in STILL):
            how = _still_of(func)
        if how is not None:
            return self._shown(func, how, True, args, given, named, how(self.context, *given, **named))
        if moves and (moving or self.context.noisy):
            body = body_of(func)
            if body is not None and func not in STILL:
                with torch.enable_grad(), self:
                    return body(*args, **kwargs)
        if not moving:
            return self._shown(func, func, False, args, given, named, func(*given, **named))
        if _in_place(func) and given and getattr(given[0], "_base", None) is not None:
            given = (self.written.opened(given[0]), *given[1:])
        how, given, named, out = self._by_rule(func, given, named)
        return self._shown(func, how, True, args, given, named, out)

    def _attribute(self, func: Any, given: Any) -> Any:
        told = _attribute(func, given[0])
        if not isinstance(told, Tensor):
            return told
        ruled = isinstance(given[0], Dual)
        return self._shown(func, _still_of(func) if ruled else func, ruled, (), given, {}, told)

    def _by_rule(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any, Any]:
        """Run a function by its rule or, where it has none, by `torch.func.jvp`.

        Returns:
            What ran, its positional and named arguments, and its result.
        """
        context = self.context
        if args and isinstance(args[0], Rows) and _overwrites(func):
            args = (self._opened(args[0]), *args[1:])
        found = self.rules.get(func)
        if found is not None and not _autocast():
            placed, named = by_position(args, kwargs)
            if takes(found, context, *placed, **named):
                how = found if found in RAW else _with_duals(found)
                try:
                    return how, placed, named, how(context, *placed, **named)
                except NoRuleError:
                    pass
        how = _by_jvp_of(func)
        out = how(context, *args, **kwargs)
        self.fallbacks.add(f"function {_name(func)}: {by_what(func)}")
        return how, args, kwargs, out

    def _opened(self, loss: Rows) -> Dual:
        """A loss with its derivatives in memory, to write into."""
        out = _open(self.context, loss)
        if self.record is not None:
            self.record(_open, True, (loss,), {}, out)
        return out

    def _noisy(self, func: Any, given: Any, named: Any) -> Any:
        """What runs in place of a layer's operation whose output is perturbed; None for anything else."""
        return None if func in STILL or body_of(func) else self.context.at(func, given, named)

    def _shown(self, func: Any, how: Any, ruled: bool, args: Any, given: Any, named: Any, out: Any) -> Any:
        """Record what ran, and give its result as the model's Python sees it."""
        if self.record is not None:
            if why := self._why_not_again(func, given, named):
                self.record.refuse(why)
            self.record(how, ruled, given, named, out)
        if isinstance(out, Dual) and args and isinstance(args[0], Tensor):
            if isinstance(args[0], Face):
                if _overwrites(func):
                    out.spare = False  # the model may read it more than once
                    args[0].dual = out
                if out is args[0].dual:
                    return args[0]
            elif _in_place(func):
                self.written.become(args[0], out)
                return args[0]
        return _map(_face, out)

    def _why_not_again(self, func: Any, given: Any, named: Any) -> str:
        """Why straight-line code would not do again what this call does; empty if it would."""
        assert self.record is not None
        looks = (self.watch is not None and self.watch.saw_a_look()) or func in READS
        if looks and not self.record.is_fixed(deciding(func, given, named)):
            return f"it asks for values, by {_name(func)}"
        if _autocast():
            return "autocast in its forward"
        if any(isinstance(value, Generator) for value in named.values()):
            return "it draws from a generator that it may seed each time"
        return "it sets a tensor's attribute" if _name(func) == "__set__" else ""  # as of `data`

    def hide(self, value: Any) -> Any:
        """The inverse of `show`: what stands for each leaf of a tree."""
        return tree_map(self._bare, value)

    def _bare(self, tree: Any) -> Any:
        """The arguments, with each `Face` replaced by its `Dual`."""
        kind = type(tree)
        if kind is Face:
            return tree.dual
        if kind is tuple or kind is list:
            return kind([self._bare(leaf) for leaf in tree])
        if kind is dict:
            return {key: self._bare(leaf) for key, leaf in tree.items()}
        if isinstance(tree, tuple) and kind is not torch.Size:
            return tuple(self._bare(leaf) for leaf in tree)
        return self.written.now(tree) if self.written.duals else tree

    def moves(self, tree: Any) -> bool:
        """Whether what the model's own Python gives to a function has tangents, or is trained by noise."""
        trained = self.context.noisy and any(
            isinstance(leaf, nn.Parameter) and leaf.requires_grad for leaf in tree_leaves(tree)
        )
        return trained or any(map(self._moves, tree_leaves(self.hide(tree))))

    def _moves(self, tree: Any) -> bool:
        kind = type(tree)
        if kind is tuple or kind is list:
            return any(map(self._moves, tree))
        if kind is dict:
            return any(map(self._moves, tree.values()))
        return isinstance(tree, Dual) or id(tree) in self.context.tangents


def _map(change: Callable[[Any], Any], tree: Any) -> Any:
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([_map(change, leaf) for leaf in tree])
    if kind is dict:
        return {key: _map(change, leaf) for key, leaf in tree.items()}
    if isinstance(tree, tuple) and kind is not torch.Size:  # torch's named results
        return kind([_map(change, leaf) for leaf in tree])
    return change(tree)


def _face(value: Any) -> Any:
    if not isinstance(value, Dual):
        return value
    value.spare = False  # the model may read it more than once
    return Face(value)


def show(value: Any) -> Any:
    """A tree of duals as a model's own Python sees it."""
    return tree_map(_face, value)


def _attribute(func: Any, x: Any) -> Any:
    """The value of an attribute, such as a shape; `func` is the attribute's getter."""
    if not isinstance(x, Dual):
        return func(x)
    name = func.__self__.__name__
    if name == "shape":
        return x.stack.shape[1:]
    if name == "ndim":
        return x.stack.dim() - 1
    return OF_ITSELF[name] if name in OF_ITSELF else func(x.primal)


@cache
def _with_duals(found: Any) -> Any:
    """A rule that is given parameters with tangents as duals."""

    def rule(context: Context, *args: Any, **kwargs: Any) -> Any:
        return found(context, *_map(context.dual, args), **_map(context.dual, kwargs))

    return rule


@cache
def _still_of(func: Any) -> Any:
    def rule(context: Context, *args: Any, **kwargs: Any) -> Any:
        return func(*_map(primal_of, args), **_map(primal_of, kwargs))

    return rule


@cache
def _by_jvp_of(func: Any) -> Any:
    def rule(context: Context, *args: Any, **kwargs: Any) -> Any:
        return by_jvp(context, func, _map(context.dual, args), _map(context.dual, kwargs))

    def on_a_copy(x: Any, *args: Any, **kwargs: Any) -> Any:
        return func(x.clone(), *args, **kwargs)

    def in_place(context: Context, x: Any, *args: Any, **kwargs: Any) -> Any:
        out = by_jvp(context, on_a_copy, _map(context.dual, (x, *args)), _map(context.dual, kwargs))
        return into(x, out) if isinstance(x, Dual) else out

    return in_place if _in_place(func) else rule


@cache
def body_of(func: Any) -> Any:
    """The Python body of a function of torch that has no rule, so that what it calls can be met instead.

    The body does not ask `has_torch_function`, as torch's own does, which would lead back here. None for a
    function that has a rule or is not written in Python.
    """
    if func in read_all():
        return None
    func = getattr(func, "__wrapped__", func)
    if not isinstance(func, python.FunctionType):
        return None
    names = func.__code__.co_names
    asks = [n for n in names if n.startswith("has_torch_function") and n in func.__globals__]
    if not asks:
        return None
    world = {**func.__globals__, **dict.fromkeys(asks, lambda *_: False)}
    body = python.FunctionType(func.__code__, world, func.__name__, func.__defaults__, func.__closure__)
    body.__kwdefaults__ = func.__kwdefaults__
    return body


def _autocast() -> bool:
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


@cache
def _in_place(func: Any) -> bool:
    name = _name(func)
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


@cache
def _overwrites(func: Any) -> bool:
    """Whether a function writes into its first argument; of one that does not move, `+=` makes another."""
    return _in_place(func) or _name(func) in AUGMENTED


def _open(context: Context, loss: Rows) -> Dual:
    return Dual(loss.stack)


def _name(func: Any) -> str:
    name = getattr(func, "__name__", str(func))
    return func.__self__.__name__ if name == "__get__" or is_own(func) else name
