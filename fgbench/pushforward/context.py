"""The context of a forward pass: which parameters have tangents, for the rules to ask."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fgbench.pushforward.dual import dual_of
from fgbench.pushforward.frozen import frozen_kept, written_frozen
from fgbench.pushforward.generators import set_states, states
from fgbench.pushforward.tangents import Tangent

# What every module has: its parameters, buffers, parts and hooks, which are kept by other means.
OF_TORCH = vars(nn.Module()).keys() - {"training"}
# What is no object of a model's own, and the libraries whose objects keep their state themselves.
NO_OBJECTS = (type, FunctionType, MethodType, ModuleType, nn.Module, Tensor, tuple, list, dict, set, deque)
OF_LIBRARIES = {"builtins", "torch", "numpy", "logging", "threading", "functools"}


class Context:
    """A pass with perturbed weights.

    Attributes:
        count: k, the number of tangents in this pass.
        tangents: the parameters' tangents, by the parameter's id.
        first: whether this is the first pass of a step; later ones leave running statistics alone.
    """

    noisy = False

    def __init__(self, count: int, tangents: Mapping[int, Tangent], *, first: bool = True) -> None:
        self.count, self.first = count, first
        self.tangents = tangents

    def at(self, function: Any, arguments: Any, options: Any) -> Callable[..., Any] | None:
        """What runs in the place of a function whose output is perturbed; None for any other."""
        return None

    def again(self) -> Context:
        """A context with the same tangents, for another pass."""
        return Context(self.count, self.tangents, first=self.first)

    def tangent(self, parameter: Tensor | None) -> Tangent | None:
        """The tangents of a parameter; None where it has none (no such parameter, frozen, not perturbed)."""
        return self.tangents.get(id(parameter))

    def dual(self, parameter: Any) -> Any:
        """A parameter with tangents as a `Dual`; anything else as it is."""
        tangent = self.tangent(parameter)
        return parameter if tangent is None else dual_of(parameter.detach(), tangent.full())


@contextmanager
def draws_again(device: torch.device, wanted: bool = True, *, numpy: bool = False) -> Iterator[None]:
    """Set the random number generators back at the end, so that the next pass drops the same units.

    PyTorch's generators, and Python's, by which some models leave out whole layers. With `numpy` also that
    library's, which takes about as long as a small model's step; without, the oracle refuses a model whose
    passes draw from it.
    """
    if not wanted:
        yield
        return
    before = states(numpy=numpy)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        set_states(*before)


@contextmanager
def buffers_kept(model: nn.Module | None, wanted: bool = True, *, eager: bool = False) -> Iterator[None]:
    """Set a model's buffers (running statistics) back at the end, also where others were put in their place.

    Frozen parameters that a pass writes into are set back like buffers. Nothing happens without a model.

    With `eager` only the buffers that were written are set back, as reverse mode may need the others
    untouched. Compiled code does not tell which buffers it writes, so that there all are set back.
    """
    modules = model.modules() if model is not None and wanted else ()
    held = [(m._buffers, name, b) for m in modules for name, b in m._buffers.items() if b is not None]
    before = [(b.clone(), b._version) for _, _, b in held]
    try:
        with frozen_kept(model) if model is not None and wanted else nullcontext():
            yield
    finally:
        for (buffers, name, buffer), (value, version) in zip(held, before, strict=True):
            if buffers.get(name) is not buffer:
                buffers[name] = buffer
            if not eager or buffer._version != version:
                buffer.copy_(value)


@contextmanager
def attributes_kept(
    model: nn.Module, *, where: Callable[[], bool] = lambda: True
) -> Iterator[dict[str, tuple[Any, Any]]]:
    """Set back at the end what a model holds in plain attributes: tensors, numbers, texts, None, containers.

    Containers are set back with all that they hold, and so are the attributes of plain objects that a module
    holds. Attributes that are new are taken away. All stays as it is if `where` says no at the end.

    Yields:
        Filled at the end: by name, what an attribute, or a container in it, held at first and what it held
        then. Of a tensor that was written into, it is the tensor itself, twice.
    """
    lazy = nn.modules.lazy.LazyModuleMixin  # becomes another class at its first call
    modules = ((path, m) for path, m in model.named_modules() if not isinstance(m, lazy))
    parts = [(f"{path}." if path else "", vars(m)) for path, m in modules]
    parts += _objects(parts)
    held = [(path, own, set(own), _attributes(own)) for path, own in parts]
    named = [(path + name, value) for path, *_, values in held for name, value in values.items()]
    filled = [(name, c, _contents(c)) for name, value in named for c in _containers(value)]
    leaves = {id(leaf): (name, leaf) for name, value in named for leaf in tree_leaves(value)}
    written = [(n, t, t.detach().clone(), t._version) for n, t in leaves.values() if _can_be_written(t)]
    changed: dict[str, tuple[Any, Any]] = {}
    try:
        yield changed
    finally:
        if not where():
            held, filled, written = [], [], []
        for name, container, before in filled:
            if not _same(before, now := _contents(container)):
                changed[name] = (before, now)
                container.clear()
                getattr(container, "extend" if isinstance(before, list) else "update")(before)
        for path, own, names, values in held:
            _put_back(path, own, names, values, changed)
        with torch.no_grad():
            for name, tensor, value, version in written:
                if tensor._version != version:
                    changed.setdefault(name, (tensor, tensor))
                    tensor.copy_(value)


def _put_back(
    path: str,
    own: dict[str, Any],
    names: set[str],
    values: dict[str, Any],
    changed: dict[str, tuple[Any, Any]],
) -> None:
    """Set a module's attributes, `own`, back to the values that they had, and note those that changed."""
    for name in own.keys() - names:
        changed[path + name] = (None, own.pop(name))
    for name, value in values.items():
        if not _same(value, own.get(name)):
            changed[path + name] = (value, own.get(name))
            own[name] = value


@contextmanager
def state_kept(model: nn.Module) -> Iterator[None]:
    """Set back at the end a model's buffers, and what it holds in plain attributes."""
    with attributes_kept(model), buffers_kept(model):  # which looks whether attributes count passes
        yield


def writes_frozen(model: nn.Module, x: Tensor) -> bool:
    """Whether a forward writes into frozen parameters, as MoCo's does into its slow copy.

    `torch.func.jvp` refuses that, and where `data` is set, as MoCo's own code does, it ends the process. If
    it is not known yet, a pass finds it out, and leaves the model as it was.
    """
    if written_frozen(model) is None:
        with torch.no_grad(), draws_again(x.device), state_kept(model):
            model(x)
    return bool(written_frozen(model))


def _attributes(own: dict[str, Any]) -> dict[str, Any]:
    """Of a module's `vars`, what its class put there; of torch's own dictionaries none."""
    return {name: v for name, v in own.items() if (_plain(v) or _holds(v)) and name not in OF_TORCH}


def _objects(parts: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """The plain objects in modules' `vars`, as settings that count steps, each once: path and `vars`."""
    named = {
        id(value): (f"{path}{name}.", vars(value))
        for path, own in reversed(parts)
        for name, value in own.items()
        if name not in OF_TORCH and _is_object(value)
    }
    return list(named.values())


def _is_object(value: Any) -> bool:
    own = not isinstance(value, NO_OBJECTS) and isinstance(getattr(value, "__dict__", None), dict)
    return own and type(value).__module__.partition(".")[0] not in OF_LIBRARIES


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_plain(part) or _holds(part) for part in value)
    return value is None or isinstance(value, (Tensor, int, float, str))


def _holds(value: Any) -> bool:
    return isinstance(value, (list, dict, set, deque))


def _contents(container: Any) -> Any:
    kind = dict if isinstance(container, dict) else set if isinstance(container, set) else list
    return kind(container)


def _containers(value: Any, met: tuple[int, ...] = ()) -> Iterator[Any]:
    """The containers in a value, itself among them, each before those that it holds."""
    if isinstance(value, tuple) or (_holds(value) and id(value) not in met):
        if _holds(value):
            yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from _containers(part, (*met, id(value)))


def _can_be_written(leaf: Any) -> bool:
    return type(leaf) is Tensor and not leaf.is_inference()


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, tuple | list | deque):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(part, other[key]) for key, part in one.items())
    return isinstance(one, int | float | str | set) and bool(one == other)
