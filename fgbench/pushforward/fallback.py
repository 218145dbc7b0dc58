"""The fallback for a function that has no rule: `torch.func.jvp` on that one function.

What has no forward mode, as a user's own `torch.autograd.Function` may, is run by its backward pass instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from types import BuiltinMethodType, MethodType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd import Function
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from fgbench.pushforward.context import Context, draws_again
from fgbench.pushforward.dual import Dual, dual_of, duals_in, map_duals
from fgbench.pushforward.rules.activations import into

NO_WAY = (
    "{name} has no {what}, and its backward pass is not made of differentiable functions of torch{advice}."
)
LACKING = "Trying to use forward AD with"  # how PyTorch begins to say that a function has no forward mode
OF_PYTORCH = ("aten", "prims", "prim")  # namespaces of operations
_WITHOUT: set[Any] = set()  # the functions of which it said so


def by_jvp(context: Context, function: Callable[..., Any], arguments: tuple[Any, ...], options: Any) -> Any:
    """Run a function on duals by `torch.func.jvp`: all tangents in one vmap, or one by one where it fails.

    Attention is computed by its definition, as PyTorch's fused kernels have no forward mode. What else has
    none, such as `grid_sample`, `cdist` and the operations of other libraries, runs by its backward pass.
    """
    if _by_its_backward(function):
        return by_backward(context, function, arguments, options)
    try:
        return _by_forward(context, function, arguments, options)
    except NotImplementedError as error:
        if not str(error).startswith(LACKING):
            raise
    _WITHOUT.add(function)
    return by_backward(context, function, arguments, options)


def _by_forward(context: Context, function: Callable[..., Any], arguments: Any, options: Any) -> Any:
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


def by_backward(context: Context, apply: Any, arguments: tuple[Any, ...], options: Any) -> Any:
    """Run a function on duals by its backward pass.

    That gives Jᵀu, which is linear in u, so that its derivative with respect to u, along ẋ, is J ẋ. Of a
    single number, as a loss is, Jᵀ is its gradient, so that nothing is differentiated twice.

    Raises:
        NotImplementedError: the backward pass cannot be differentiated, or an output is a nested tensor.
    """
    everything = (arguments, options)
    duals = duals_in(everything)
    with torch.enable_grad():
        inputs = [d.primal.detach().requires_grad_() for d in duals]
        given = [i.clone() for i in inputs]  # which it may write into, unlike what gradients are taken of
        supply = iter(given)
        filled, named = map_duals(lambda _: next(supply), everything)
        found = apply(*filled, **named)
        outputs = [o for o in (found if isinstance(found, tuple) else (found,)) if _depends(o)]
        if not outputs:
            return found
        if any(o.is_nested for o in outputs):
            raise NotImplementedError("nested tensors have no tangents here: pad them instead.")
        moved = [o.new_zeros(context.count, *o.shape) for o in outputs]
        if sum(o.numel() for o in outputs) == 1 and not any(i.is_complex() for i in inputs):
            pulled = torch.autograd.grad(outputs, inputs, allow_unused=True)
            _add_along(moved[0], pulled, duals)
        else:
            slopes = [torch.ones_like(o).requires_grad_() for o in outputs]
            pulled = torch.autograd.grad(outputs, inputs, slopes, create_graph=True, allow_unused=True)
            for part, dual in zip(pulled, duals, strict=True):
                if part is not None and not _added(part, slopes, dual.tangents, moved):
                    raise NotImplementedError(_no_way(apply))
    tangents = iter(moved)

    def stacked(output: Any) -> Any:
        if not _depends(output):
            return output
        out = dual_of(output.detach(), next(tangents))
        written = next((d for d, own in zip(duals, given, strict=True) if own is output), None)
        return out if written is None else into(written, out)

    return tuple(map(stacked, found)) if isinstance(found, tuple) else stacked(found)


def _add_along(moved: Tensor, gradients: Sequence[Any], duals: list[Dual]) -> None:
    """Add to `moved`, the k tangents of a single number, what its gradients say that the duals cause."""
    for gradient, dual in zip(gradients, duals, strict=True):
        if gradient is not None:
            moved += (dual.tangents * gradient).reshape(len(moved), -1).sum(1).view_as(moved)


def _added(part: Tensor, slopes: list[Tensor], tangents: Tensor, moved: list[Tensor]) -> bool:
    """Add to `moved`, [k, *output] each, what one argument's k tangents cause; False where that is not known.

    `part` is that argument's gradient as a function of the outputs' `slopes`.
    """
    for index, tangent in enumerate(tangents):
        try:
            found = torch.autograd.grad(part, slopes, tangent, retain_graph=True, allow_unused=True)
        except RuntimeError:  # no function of anything
            return False
        if all(f is None for f in found):
            return False
        for own, change in zip(moved, found, strict=True):
            if change is not None:
                own[index] += change
    return True


def _no_way(function: Any) -> str:
    if not is_own(function):
        name = getattr(function, "__name__", function)
        return NO_WAY.format(name=name, what="forward mode in PyTorch", advice="")
    name = f"{function.__self__.__name__}, a torch.autograd.Function,"
    return NO_WAY.format(name=name, what="jvp", advice=": give it setup_context and jvp")


def _depends(output: Any) -> bool:
    return isinstance(output, Tensor) and output.requires_grad


def is_own(function: Any) -> bool:
    """Whether it is the application of a user's own `torch.autograd.Function`."""
    bound = isinstance(function, MethodType | BuiltinMethodType)
    return bound and isinstance(function.__self__, type(Function))


def _has_jvp(apply: Any) -> bool:
    """Whether a user's own function has a forward mode that `torch.func.jvp` takes."""
    own = apply.__self__
    return own.jvp is not Function.jvp and own.setup_context is not Function.setup_context


def by_what(function: Any) -> str:
    """By what a function without a rule runs, in words."""
    return "its backward pass" if _by_its_backward(function) else "torch.func.jvp"


def _by_its_backward(function: Any) -> bool:
    return function in _WITHOUT or _is_custom(function) or (is_own(function) and not _has_jvp(function))


def _is_custom(function: Any) -> bool:
    """Whether it is an operation of a library of its own, whose forward mode PyTorch takes to be zero.

    One that is composed of PyTorch's has theirs.
    """
    if isinstance(function, OpOverloadPacket):
        function = getattr(function, function.overloads()[0])
    return (
        isinstance(function, OpOverload)
        and function.namespace not in OF_PYTORCH
        and not function.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    )


def _all_at_once(context: Context, one: Callable[..., Any], tangents: list[Tensor]) -> tuple[Any, Any]:
    """The value and its tangents for k tangents of each input, [k, *shape]."""
    try:
        values, moved = torch.func.vmap(one, randomness="same")(*tangents)
        return _each(lambda t: t[0], values), moved
    except RuntimeError:  # vmap cannot do this: go on one by one, where any other error is raised again
        pass
    if get_proxy_mode() is not None:  # then setting random numbers back would be lost
        raise NotImplementedError("straight-line code of what runs tangent by tangent")
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
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def _stacked(value: Any, moved: Any) -> Any:
    if isinstance(value, Tensor):
        moves = value.is_floating_point() or value.is_complex()
        return Dual(torch.cat([value.unsqueeze(0), moved])) if moves else value
    if isinstance(value, tuple | list):
        return type(value)(_stacked(v, m) for v, m in zip(value, moved, strict=True))
    return value
