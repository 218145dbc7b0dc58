"""Elementwise functions: ẏ = f'(x) ẋ, computed by reverse mode's kernel where torch has one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of, empty_dual, moving
from fgbench.pushforward.rules import NoRuleError, rule

aten = torch.ops.aten

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, as torch has them


def _room(x: Dual) -> Dual:
    """Memory for a result of x's shape: its own where nothing else reads it."""
    return x if x.spare else empty_dual(x.primal, x.count)


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
    out, primal = _room(x), x.primal
    if x.count == 1:
        aten.gelu_backward.grad_input(x.stack[1], primal, approximate=approximate, grad_input=out.stack[1])
    else:  # oneDNN's kernel, which torch takes for large float32 tensors, does not broadcast
        slope = aten.gelu_backward(torch.ones_like(primal), primal, approximate=approximate)
        torch.mul(x.tangents, slope, out=out.tangents)
    aten.gelu.out(primal, approximate=approximate, out=out.primal)  # last, as this may overwrite the argument
    return out


@rule("silu")
def silu(context: Context, x: Dual, inplace: bool = False) -> Dual:
    """x σ(x)."""
    primal = x.primal
    out = _room(x)
    if x.count == 1:
        aten.silu_backward.grad_input(x.tangents, primal, grad_input=out.tangents)
    else:  # the slope's exponential once, not once a tangent
        torch.mul(x.tangents, aten.silu_backward(torch.ones_like(primal), primal), out=out.tangents)
    aten.silu.out(primal, out=out.primal)  # last, as this may overwrite the argument
    return into(x, out) if inplace else out


@rule("tanh")
def tanh(context: Context, x: Dual) -> Dual:
    """The slope is 1 − tanh²."""
    primal, out = real(x.primal), _room(x)
    torch.tanh(primal, out=out.primal)
    aten.tanh_backward.grad_input(x.tangents, out.primal, grad_input=out.tangents)
    return out


@rule("sigmoid")
def sigmoid(context: Context, x: Dual) -> Dual:
    """The slope is σ (1 − σ)."""
    primal, out = real(x.primal), _room(x)
    torch.sigmoid(primal, out=out.primal)
    aten.sigmoid_backward.grad_input(x.tangents, out.primal, grad_input=out.tangents)
    return out


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


@rule("glu")
def glu(context: Context, x: Dual, dim: int = -1) -> Dual:
    """a σ(b) for the halves a and b of x along `dim`; the tangent is ȧ σ(b) + a σ(b) (1 − σ(b)) ḃ."""
    along = dim % x.primal.dim()
    half, gate = x.primal.chunk(2, along)
    moved, opened = x.tangents.chunk(2, along + 1)
    share = torch.sigmoid(gate)
    value = half * share
    return dual_of(value, (moved * share).addcmul_(opened, value * (1 - share)))


def _elementwise(name: str, slope: Callable[..., Tensor], space: Any = torch) -> None:
    """Make the rule of a function from `slope`, which gives f'(x) from x, f(x) and the function's options.

    If the last positional option is a bool, it is `inplace`.
    """
    function = getattr(space, name)

    def along(context: Context, x: Dual, *given: Any, inplace: bool = False, **named: Any) -> Dual:
        if given and isinstance(given[-1], bool):
            *given, inplace = given  # type: ignore[assignment]
        if not isinstance(x, Dual) or any(isinstance(g, Tensor | Dual) for g in (*given, *named.values())):
            raise NoRuleError("an option that is no number")
        primal = x.primal
        value = function(primal, *given, **named)
        out = empty_dual(value, x.count)
        out.stack[0] = value
        torch.mul(x.tangents, slope(primal, value, *given, **named), out=out.stack[1:])
        return into(x, out) if inplace else out

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
_elementwise("abs", lambda x, y: real(x).sign())
_elementwise("erf", lambda x, y: 2 / math.sqrt(math.pi) * torch.exp(-(x**2)))
_elementwise("exp2", lambda x, y: y * math.log(2))
_elementwise("tan", lambda x, y: 1 + y**2)
_elementwise("atan", lambda x, y: 1 / (1 + x**2))
_elementwise("clamp", lambda x, y, *_, **named: y == x)
_elementwise("clip", lambda x, y, *_, **named: y == x)
_elementwise("clamp_min", lambda x, y, *_, **named: y == x)
_elementwise("clamp_max", lambda x, y, *_, **named: y == x)
_elementwise("threshold", lambda x, y, threshold, value: x > threshold, F)
_elementwise("relu6", lambda x, y: (x > 0) & (x < 6), F)
_elementwise("hardtanh", lambda x, y, min_val=-1.0, max_val=1.0: (x > min_val) & (x < max_val), F)
_elementwise("elu", lambda x, y, alpha=1.0: torch.where(x > 0, 1, alpha * x.exp()), F)
_elementwise("celu", lambda x, y, alpha=1.0: torch.where(x > 0, 1, (x / alpha).exp()), F)
_elementwise("selu", lambda x, y: SELU_SCALE * torch.where(x > 0, 1, SELU_ALPHA * x.exp()), F)
_elementwise("logsigmoid", lambda x, y: torch.sigmoid(-x), F)
_elementwise("mish", lambda x, y: _mish_slope(x), F)
_elementwise(
    "softplus",
    lambda x, y, beta=1, threshold=20: torch.where(x * beta > threshold, 1, torch.sigmoid(x * beta)),
    F,
)


def _mish_slope(x: Tensor) -> Tensor:
    """The slope of x · t with t = tanh(softplus(x)), which is t + x σ(x) (1 − t²)."""
    t = torch.tanh(F.softplus(x))
    return t + x * torch.sigmoid(x) * (1 - t**2)


def real(x: Tensor) -> Tensor:
    """The value itself, of a rule that is for real numbers alone: reverse mode's kernels conjugate slopes.

    Raises:
        NoRuleError: it is complex.
    """
    if x.is_complex():
        raise NoRuleError("complex numbers")
    return x


@rule("softmax")
def softmax(context: Context, x: Dual, dim: Any = None, *rest: Any, **options: Any) -> Dual:
    """ṡ = s (ẋ − ⟨s, ẋ⟩)."""
    x, dim = _cast(x, (*rest, *options.values())), _dimension(dim, x)
    value = torch.softmax(x.primal, dim)
    return dual_of(value, softmax_tangents(x.tangents, value, dim))


@rule("log_softmax")
def log_softmax(context: Context, x: Dual, dim: Any = None, *rest: Any, **options: Any) -> Dual:
    """The tangent is ẋ − ⟨softmax(x), ẋ⟩."""
    x, dim = _cast(x, (*rest, *options.values())), _dimension(dim, x)
    value = torch.log_softmax(x.primal, dim)
    along = dim % x.primal.dim() + 1
    mean = (x.tangents * value.exp()).sum(along, keepdim=True)
    return dual_of(value, x.tangents - mean)


def softmax_tangents(tangents: Tensor, value: Tensor, dim: int) -> Tensor:
    """s (ẋ − ⟨s, ẋ⟩) for tangents [k, *shape] and a softmax [*shape] over `dim`."""
    weighted = tangents * value
    along = dim % value.dim() + 1
    return weighted.addcmul_(value, weighted.sum(along, keepdim=True), value=-1)


def into(x: Dual, out: Dual | Tensor) -> Dual:
    """Write the result of an operation in place into the memory of its argument, and give that.

    A result that does not move, as a rounded one, leaves tangents of zero there.

    Raises:
        NotImplementedError: the result has another shape, as after `unsqueeze_`.
    """
    out = out if isinstance(out, Dual) else moving(out, x.count)
    if x.stack.shape != out.stack.shape:
        raise NotImplementedError("an operation in place that changes the shape of what moves")
    x.stack.copy_(out.stack)
    return x


def _cast(x: Dual, given: tuple[Any, ...]) -> Dual:
    """Convert to the dtype among the arguments, if there is one."""
    wanted = next((a for a in given if isinstance(a, torch.dtype)), x.stack.dtype)
    return x if wanted == x.stack.dtype else Dual(x.stack.to(wanted))


def _dimension(dim: Any, x: Dual) -> int:
    """The dimension of a softmax, which torch lets the caller leave out, but the rule does not.

    Raises:
        NoRuleError: the dimension is left out, or x is a single number, which has none.
    """
    if not isinstance(dim, int) or x.stack.dim() == 1:
        raise NoRuleError(f"dim={dim}")
    return dim
