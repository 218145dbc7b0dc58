"""What has no rule: `torch.func.jvp` on that one function or module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate
from torch.nn.attention import SDPBackend, sdpa_kernel

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, duals_in, map_duals


def by_jvp(context: Context, function: Callable[..., Any], arguments: tuple[Any, ...], options: Any) -> Any:
    """A function on duals, tangent by tangent in one vmap, or one after the other where vmap cannot.

    Attention runs by its definition there: fused kernels have no forward mode.
    """
    everything = (arguments, options)
    duals = duals_in(everything)

    def plain(*values: Tensor) -> Any:
        supply = iter(values)
        filled, named = map_duals(lambda _: next(supply), everything)
        return function(*filled, **named)

    stacks = [d.stack.contiguous() if 0 in d.stack.stride() else d.stack for d in duals]
    primals = tuple(s[0] for s in stacks)

    def one(*tangents: Tensor) -> Any:
        return torch.func.jvp(plain, primals, tangents)

    with sdpa_kernel(SDPBackend.MATH):
        if context.count == 1:
            value, moved = one(*(s[1] for s in stacks))
            moved = _each(lambda t: t.unsqueeze(0), moved)
        else:
            both = torch.func.vmap(one, randomness="same")(*(s[1:] for s in stacks))
            value, moved = _each(lambda t: t[0], both[0]), both[1]
    return _stacked(value, moved)


def _each(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    return map_aggregate(tree, lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def _stacked(value: Any, moved: Any) -> Any:
    if isinstance(value, Tensor):
        return Dual(torch.cat([value.unsqueeze(0), moved])) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_stacked(v, m) for v, m in zip(value, moved, strict=True))
    return value


def module_by_jvp(context: Context, module: nn.Module, inputs: tuple[Any, ...], options: Any) -> Any:
    """A module with all that it holds; its buffers move in the step's first pass alone."""
    parameters = {name: context.dual(p) for name, p in module.named_parameters()}
    buffers = dict(module.named_buffers())

    def call(held: dict[str, Tensor], arguments: tuple[Any, ...], named: Any) -> Any:
        copies = {name: buffer.clone() for name, buffer in buffers.items()}
        output = torch.func.functional_call(module, {**held, **copies}, arguments, named)
        return output, tuple(copies.values())

    output, after = by_jvp(context, call, (parameters, inputs, options), {})
    if context.first:
        for buffer, value in zip(buffers.values(), after, strict=True):
            buffer.copy_(value.primal if isinstance(value, Dual) else value)
    return output
