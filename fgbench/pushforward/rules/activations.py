"""Elementwise functions: ẏ = f'(x) ẋ, computed by reverse mode's kernel where torch has one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of, empty_dual
from fgbench.pushforward.rules import NoRuleError, rule

aten = torch.ops.aten


@rule("relu")
def relu(context: Context, x: Dual, inplace: bool = False) -> Dual:
    """ReLU, as one masked pass over the value and its tangents."""
    if inplace:
        return relu_(context, x)
    if not x.spare:
        return Dual(aten.threshold_backward(x.stack, x.primal, 0), spare=True)
    return relu_(context, x)


@rule("relu_")
def relu_(context: Context, x: Dual) -> Dual:
    """ReLU in place."""
    primal = x.primal
    for tangent in x.tangents.unbind():  # the value comes last, as the tangents are masked by it
        aten.threshold_backward.grad_input(tangent, primal, 0, grad_input=tangent)
    primal.relu_()
    return x


@rule("gelu")
def gelu(context: Context, x: Dual, approximate: str = "none") -> Dual:
    """GELU, exact or by its tanh approximation."""
    # Tangent by tangent, as oneDNN's kernel, which torch takes for large float32 tensors, does not broadcast.
    stack, primal = torch.empty_like(x.stack), x.primal
    stack[0].copy_(F.gelu(primal, approximate=approximate))
    for tangent, along in zip(x.tangents, stack[1:], strict=True):
        along.copy_(aten.gelu_backward(tangent, primal, approximate=approximate))
    return Dual(stack, spare=True)


@rule("silu")
def silu(context: Context, x: Dual, inplace: bool = False) -> Dual:
    """x σ(x)."""
    primal = x.primal
    out = dual_of(F.silu(primal), aten.silu_backward(x.tangents, primal))
    return into(x, out) if inplace else out


@rule("tanh")
def tanh(context: Context, x: Dual) -> Dual:
    """1 − tanh²."""
    value = torch.tanh(x.primal)
    return dual_of(value, aten.tanh_backward(x.tangents, value))


@rule("sigmoid")
def sigmoid(context: Context, x: Dual) -> Dual:
    """σ (1 − σ)."""
    value = torch.sigmoid(x.primal)
    return dual_of(value, aten.sigmoid_backward(x.tangents, value))


@rule("hardswish")
def hardswish(context: Context, x: Dual, inplace: bool = False) -> Dual:
    """x · relu6(x + 3) / 6."""
    primal = x.primal.contiguous()
    moved = [aten.hardswish_backward(t, primal) for t in x.tangents.contiguous()]
    out = dual_of(F.hardswish(primal), torch.stack(moved))
    return into(x, out) if inplace else out


@rule("hardsigmoid")
def hardsigmoid(context: Context, x: Dual, inplace: bool = False) -> Dual:
    """relu6(x + 3) / 6."""
    primal = x.primal
    moved = [aten.hardsigmoid_backward(t, primal) for t in x.tangents]
    out = dual_of(F.hardsigmoid(primal), torch.stack(moved))
    return into(x, out) if inplace else out


@rule("leaky_relu")
def leaky_relu(context: Context, x: Dual, negative_slope: float = 0.01, inplace: bool = False) -> Dual:
    """Leaky ReLU: the slope is 1, or `negative_slope` where x ≤ 0."""
    value = x.primal
    out = Dual(torch.where(value > 0, x.stack, x.stack * negative_slope))
    return into(x, out) if inplace else out


def _elementwise(name: str, slope: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Make the rule of a function of torch; `slope` gives f'(x) from x and f(x)."""
    function = getattr(torch, name)

    def along(context: Context, x: Dual) -> Dual:
        primal = x.primal
        value = function(primal)
        out = empty_dual(value, x.count)
        out.stack[0] = value
        torch.mul(x.tangents, slope(primal, value), out=out.stack[1:])
        return out

    rule(name)(along)


_elementwise("exp", lambda x, y: y)
_elementwise("expm1", lambda x, y: y + 1)
_elementwise("log", lambda x, y: 1 / x)
_elementwise("log1p", lambda x, y: 1 / (1 + x))
_elementwise("sqrt", lambda x, y: 0.5 / y)
_elementwise("rsqrt", lambda x, y: -0.5 * y**3)
_elementwise("reciprocal", lambda x, y: -(y**2))
_elementwise("square", lambda x, y: 2 * x)
_elementwise("sin", lambda x, y: x.cos())
_elementwise("cos", lambda x, y: -x.sin())
_elementwise("abs", lambda x, y: x.sign())
_elementwise("erf", lambda x, y: 2 / math.sqrt(math.pi) * torch.exp(-(x**2)))


@rule("softmax")
def softmax(context: Context, x: Dual, dim: Any = None, *rest: Any, **options: Any) -> Dual:
    """ṡ = s (ẋ − ⟨s, ẋ⟩)."""
    x, dim = _cast(x, (*rest, *options.values())), no_rule_unless_int(dim)
    value = torch.softmax(x.primal, dim)
    return dual_of(value, softmax_tangents(x.tangents, value, dim))


@rule("log_softmax")
def log_softmax(context: Context, x: Dual, dim: Any = None, *rest: Any, **options: Any) -> Dual:
    """ẋ − ⟨softmax(x), ẋ⟩."""
    x, dim = _cast(x, (*rest, *options.values())), no_rule_unless_int(dim)
    value = torch.log_softmax(x.primal, dim)
    along = dim % x.primal.dim() + 1
    mean = (x.tangents * value.exp()).sum(along, keepdim=True)
    return dual_of(value, x.tangents - mean)


def softmax_tangents(tangents: Tensor, value: Tensor, dim: int) -> Tensor:
    """s (ẋ − ⟨s, ẋ⟩) for tangents [k, *shape] and a softmax [*shape] over `dim`."""
    weighted = tangents * value
    along = dim % value.dim() + 1
    return weighted.addcmul_(value, weighted.sum(along, keepdim=True), value=-1)


def into(x: Dual, out: Dual) -> Dual:
    """Copy an operation's result into the memory of its argument, as an operation in place does."""
    x.stack.copy_(out.stack)
    return x


def _cast(x: Dual, given: tuple[Any, ...]) -> Dual:
    """Convert to the dtype among the arguments, if there is one."""
    wanted = next((a for a in given if isinstance(a, torch.dtype)), x.stack.dtype)
    return x if wanted == x.stack.dtype else Dual(x.stack.to(wanted))


def no_rule_unless_int(dim: Any) -> int:
    """The dimension of a softmax, which may be left out in torch but not here.

    Raises:
        NoRuleError: it is left out.
    """
    if not isinstance(dim, int):
        raise NoRuleError(f"dim={dim}")
    return dim
