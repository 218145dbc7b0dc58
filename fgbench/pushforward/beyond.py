"""What a model's own Python calls without torch's overrides being told, so that tangents would be lost there.

A user's own `torch.autograd.Function` is met where it is applied. What `torch.compile` made is run as the
Python that it was made of.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._functorch import apis
from torch._functorch.vmap import vmap_impl
from torch.autograd import Function
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode,
    handle_torch_function,
    has_torch_function,
)
from torch.utils import checkpoint
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.hooks import BackwardHook

from fgbench.pushforward.course import Course, Face
from fgbench.pushforward.kinds import STILL

COMPILED = "what torch.compile made in the model: its own Python"
NOT_GIVEN = (
    "a function that the model runs by torch.vmap uses weights, or what is computed from weights, without "
    "being given them: make them its arguments, with in_dims=None where all share them."
)


@contextmanager
def running(course: Course) -> Iterator[None]:
    """Inside, what a model's own Python calls runs in the course.

    Gradients are enabled, as in training, so that a `no_grad` of the model's own takes effect.
    """
    watch = course.watch
    try:
        with (
            torch.enable_grad(),
            _uncompiled(),
            _own_functions_met(),
            _vmap_met(course),
            plain_checkpoints(),
            _no_backward_hooks(),
            watch or nullcontext(),
            course,
        ):
            yield
    except Exception as error:
        # A script does not tell what failed.
        if watch is not None and watch.lost and watch.lost not in str(error):
            raise NotImplementedError(watch.lost) from error
        raise


@contextmanager
def _own_functions_met() -> Iterator[None]:
    """Inside, overrides are told where a user's own function is applied."""

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        own = before.__get__(None, cls)
        if has_torch_function(args) and cls.__module__ != checkpoint.__name__:  # those compute nothing
            return handle_torch_function(own, args, *args, **kwargs)
        return own(*args, **kwargs)

    before = Function.__dict__["apply"]
    Function.apply = classmethod(apply)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Function.apply = before  # type: ignore[method-assign]


@contextmanager
def _vmap_met(course: Course) -> Iterator[None]:
    """Inside, a vmap of the model's own that is given what moves runs as one function without a rule."""

    def vmapped(*given: Any, **named: Any) -> Any:
        if _get_current_function_mode() is not course:  # it is the engine's own
            return before(*given, **named)
        if course.moves((given, named)):
            leaves, spec = tree_flatten((given, named))
            of_output: list[Any] = []
            found = handle_torch_function(vmap, leaves, spec, of_output.append, *leaves)
            if course.record is not None:  # its function may read what the model changes
                course.record.refuse("it runs a function of its own by torch.vmap")
            return tree_unflatten(found, of_output[-1])
        if not torch.is_grad_enabled():
            return before(*given, **named)
        given, named = tree_map(_no_parameter, (given, named))
        with _Apart():
            return before(*given, **named)

    before = apis.vmap_impl
    apis.vmap_impl = vmapped
    try:
        yield
    finally:
        apis.vmap_impl = before


def vmap(spec: Any, tell: Callable[[Any], None], *leaves: Any) -> tuple[Any, ...]:
    """The leaves of what a vmap gives, from those of its arguments; how its output is nested is told."""
    given, named = tree_unflatten(map(_no_parameter, leaves), spec)
    with _Apart():
        found, of_output = tree_flatten(vmap_impl(*given, **named))
    tell(of_output)
    return tuple(found)


def _no_parameter(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, nn.Parameter) else leaf


class _Apart(TorchFunctionMode):
    """While in force, refuses what a function under vmap is not given: weights, and what is computed of them.

    What it is given are other tensors, so that these would have no tangents there.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in STILL and any(map(_may_move, tree_leaves((args, kwargs)))):
            raise NotImplementedError(NOT_GIVEN)
        return func(*args, **(kwargs or {}))


def _may_move(leaf: Any) -> bool:
    return isinstance(leaf, Face) or (isinstance(leaf, nn.Parameter) and leaf.requires_grad)


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """Inside, a reentrant checkpoint is its function, which it would run without gradients or tangents."""
    own = checkpoint.CheckpointFunction
    own.apply = staticmethod(lambda function, _preserve, *inputs: function(*inputs))
    try:
        yield
    finally:
        del own.apply


@contextmanager
def _no_backward_hooks() -> Iterator[None]:
    """Inside, a module's hooks on its gradients, of which there are none, leave values as they are."""
    before = BackwardHook._apply_on_tensors
    BackwardHook._apply_on_tensors = lambda self, fn, args: (args, None)  # type: ignore[method-assign]
    try:
        yield
    finally:
        BackwardHook._apply_on_tensors = before  # type: ignore[method-assign]


def _uncompiled() -> AbstractContextManager[Any]:
    """Inside, what torch.compile made runs as the Python that it was made of, if there can be any such."""
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():
        return nullcontext()
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile made the model, or a module in it."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and any(
        isinstance(m, dynamo.OptimizedModule) or m._compiled_call_impl is not None for m in model.modules()
    )


def refuse_scripts(model: nn.Module) -> None:
    """Refuse trained modules that run below Python.

    Raises:
        NotImplementedError: there is one.
    """
    for name, module in model.named_modules():
        script = isinstance(module, torch.jit.ScriptModule)
        if script and any(p.requires_grad for p in module.parameters()):
            raise NotImplementedError(
                f"{name or 'the model'} was made by torch.jit, and runs below Python, where it would lose "
                "tangents: give the module that it was made of."
            )
