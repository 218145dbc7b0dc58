"""What a model's own Python calls without torch's overrides being told, so that tangents would be lost there.

A user's own `torch.autograd.Function` is met where it is applied. What `torch.compile` made is run as the
Python that it was made of.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._functorch import apis
from torch.autograd import Function
from torch.overrides import _get_current_function_mode, handle_torch_function, has_torch_function
from torch.utils import checkpoint
from torch.utils.hooks import BackwardHook

from fgbench.pushforward.course import Course
from fgbench.pushforward.watch import LOST

COMPILED = "what torch.compile made in the model: its own Python"


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
            _vmap_keeps(course),
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
def _vmap_keeps(course: Course) -> Iterator[None]:
    """Inside, a vmap of the model's own is refused where it would lose tangents.

    What it hands to its function is another tensor, so that a parameter is not known there.
    """

    def vmapped(*given: Any, **named: Any) -> Any:
        if _get_current_function_mode() is not course:  # it is the engine's own
            return before(*given, **named)
        if course.moves((given, named)):
            raise NotImplementedError(LOST.format(operation="vmap"))
        try:
            return before(*given, **named)
        except Exception as error:  # as where its function returns what moves
            raise NotImplementedError(LOST.format(operation="vmap")) from error

    before = apis.vmap_impl
    apis.vmap_impl = vmapped
    try:
        yield
    finally:
        apis.vmap_impl = before


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
