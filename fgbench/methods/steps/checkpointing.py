"""Activation checkpointing: the insides of a model's segments are computed again in the backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from fgbench.errors import UsageError


class Checkpointed:
    """Calls a model so that its forward pass keeps only the inputs of its segments.

    An nn.Sequential is cut into segments that begin at each layer with parameters (`layer`), or into √n
    segments if there are n such layers (`sqrt`). A model with a forward of its own is cut into its blocks,
    however deep in it they stand.
    """

    def __init__(self, model: nn.Module, policy: str) -> None:
        """Choose the segments; the model itself stays as it is.

        Raises:
            UsageError: `sqrt` is asked for a model that is not an nn.Sequential.
        """
        self.model = model
        self.forwards: dict[nn.Module, Callable[..., Any]] = {}
        if type(model) is nn.Sequential:
            runs = _runs(model)
            if policy == "sqrt":
                runs = _grouped(runs, round(math.sqrt(len(runs))))
            segments = runs[:-1]  # backward begins with the last run: computing it again would save nothing
        elif policy == "sqrt":
            raise UsageError(
                "backprop:checkpoint=true,segments=sqrt needs an nn.Sequential: use segments=layer."
            )
        else:
            segments = [[block] for block in _blocks(model)]
        for first, *others in segments:
            self.forwards[first] = _checkpointed_run([first, *others])
            self.forwards |= dict.fromkeys(others, _passed_on)

    def __call__(self, x: Tensor) -> Any:
        """The model's output."""
        for module, forward in self.forwards.items():
            module.forward = forward  # type: ignore[method-assign]
        try:
            return self.model(x)
        finally:
            for module in self.forwards:
                del module.forward


def _runs(model: nn.Sequential) -> list[list[nn.Module]]:
    runs: list[list[nn.Module]] = [[]]
    for layer in model:
        if _has_parameters(layer) and any(map(_has_parameters, runs[-1])):
            runs.append([])
        runs[-1].append(layer)
    return runs


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _grouped(runs: list[list[nn.Module]], count: int) -> list[list[nn.Module]]:
    size = math.ceil(len(runs) / count)
    return [list(chain.from_iterable(runs[i : i + size])) for i in range(0, len(runs), size)]


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The model's parts that have parameters; what holds a stack of blocks is replaced by its own parts."""
    for child in model.children():
        if isinstance(child, nn.Sequential | nn.ModuleList) or any(map(_is_stack, child.modules())):
            yield from _blocks(child)
        elif _has_parameters(child):
            yield child


def _is_stack(module: nn.Module) -> bool:
    """Whether it holds blocks of one kind that are made of layers, as a transformer's encoder does."""
    if not isinstance(module, nn.Sequential | nn.ModuleList):
        return False
    blocks = [block for block in module if _has_parameters(block)]
    kinds = [type(block) for block in blocks if next(block.children(), None) is not None]
    return len(kinds) > len(set(kinds))


def _checkpointed_run(modules: list[nn.Module]) -> Callable[..., Any]:
    """A forward for the first of the modules that computes them all under a checkpoint."""
    forwards = [m.forward for m in modules]
    held = nn.ModuleList(modules)
    draws = any(
        isinstance(m, _DropoutNd) or not type(m).__module__.startswith("torch.nn") for m in held.modules()
    )

    def run(*inputs: Any, **options: Any) -> Any:
        output = forwards[0](*inputs, **options)
        for forward in forwards[1:]:
            output = forward(output)
        return output

    contexts = partial(_contexts, list(held.buffers()))
    return partial(checkpoint, run, use_reentrant=False, preserve_rng_state=draws, context_fn=contexts)


def _passed_on(x: Tensor) -> Tensor:
    return x


def _contexts(buffers: list[Tensor]) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts for the first pass, and for the second, which must not update running statistics again."""
    return nullcontext(), _kept(buffers)


@contextmanager
def _kept(buffers: list[Tensor]) -> Iterator[None]:
    before = [b.clone() for b in buffers]
    try:
        yield
    finally:  # recomputation ends by an exception as soon as nothing more is needed
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
