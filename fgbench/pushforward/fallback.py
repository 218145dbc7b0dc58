"""The fallback for a function that has no rule: `torch.func.jvp` on that one function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.fx.node import map_aggregate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fgbench.pushforward.context import Context, draws_again
from fgbench.pushforward.dual import Dual, duals_in, map_duals


def by_jvp(context: Context, function: Callable[..., Any], arguments: tuple[Any, ...], options: Any) -> Any:
    """Run a function on duals by `torch.func.jvp`: all tangents in one vmap, or one by one where it fails.

    Attention is computed by its definition, as PyTorch's fused kernels have no forward mode.
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

    with sdpa_kernel(SDPBackend.MATH), PaddingStill():
        if context.count == 1:
            value, moved = one(*(s[1] for s in stacks))
            moved = _each(lambda t: t.unsqueeze(0), moved)
        else:
            value, moved = _all_at_once(context, one, [s[1:] for s in stacks])
    return _stacked(value, moved)


def _all_at_once(context: Context, one: Callable[..., Any], tangents: list[Tensor]) -> tuple[Any, Any]:
    """The value and its tangents for k tangents of each input, [k, *shape]."""
    try:
        values, moved = torch.func.vmap(one, randomness="same")(*tangents)
        return _each(lambda t: t[0], values), moved
    except RuntimeError:  # vmap cannot do this: go on one by one, where any other error is raised again
        pass
    results = []
    for index in range(context.count):
        with draws_again(tangents[0].device, index < context.count - 1):
            results.append(one(*(t[index] for t in tangents)))
    return results[0][0], _joined([moved for _, moved in results])


def _joined(results: list[Any]) -> Any:
    first = results[0]
    if isinstance(first, Tensor):
        return torch.stack(results)
    if isinstance(first, tuple | list):
        return type(first)(_joined(list(parts)) for parts in zip(*results, strict=True))
    return first


class PaddingStill(TorchFunctionMode):
    """Padding rows of an embedding get no tangent where they are looked up, as they get no gradient."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is not F.embedding:
            return output
        given = inspect.signature(F.embedding).bind(*args, **(kwargs or {})).arguments
        padding = given.get("padding_idx")
        if padding is None:
            return output
        looked_up = given["input"] != padding % len(given["weight"])
        return torch.where(looked_up.unsqueeze(-1), output, output.detach())


def _each(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    return map_aggregate(tree, lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf)


def _stacked(value: Any, moved: Any) -> Any:
    if isinstance(value, Tensor):
        moves = value.is_floating_point() or value.is_complex()
        return Dual(torch.cat([value.unsqueeze(0), moved])) if moves else value
    if isinstance(value, tuple | list):
        return type(value)(_stacked(v, m) for v, m in zip(value, moved, strict=True))
    return value
