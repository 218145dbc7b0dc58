"""Rules of arithmetic and of matrix products."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of, empty_dual, moving, primal_of
from fgbench.pushforward.rules import RULES, NoRuleError, rule
from fgbench.pushforward.rules.linear import linear_along
from fgbench.pushforward.tangents import RankOne


@rule("add", "__radd__")
def add(context: Context, a: Any, b: Any, *, alpha: float = 1) -> Dual:
    """a + alpha · b; either may be without tangents."""
    if isinstance(a, Dual) and a.spare and isinstance(b, int | float) and alpha == 1:
        a.primal.add_(b)
        return a
    return _sum(a, b, alpha)


@rule("sub", "subtract")
def sub(context: Context, a: Any, b: Any, *, alpha: float = 1) -> Dual:
    """a − alpha · b; either may be without tangents."""
    return _sum(a, b, -alpha)


@rule("rsub", "__rsub__")
def rsub(context: Context, a: Any, b: Any, *, alpha: float = 1) -> Dual:
    """b − alpha · a."""
    return _sum(b, a, -alpha)


@rule("mul", "multiply", "__rmul__")
def mul(context: Context, a: Any, b: Any) -> Dual:
    """a · b; the tangent is ȧ b + a ḃ."""
    if not isinstance(b, Dual):
        a, b = b, a
    if not isinstance(a, Dual):
        if b.spare and (isinstance(a, int | float) or _spreads_over(a, b)):
            b.stack.mul_(a)
            return b  # type: ignore[no-any-return]
        return Dual(aligned(b, a).stack * a, spare=True)
    if not a.spare:
        a, b = b, a
    first, second = a.primal, b.primal
    if a.spare and alike(a, b):
        a.tangents.mul_(second).addcmul_(b.tangents, first)
        first.mul_(second)
        return a  # type: ignore[no-any-return]
    a, b = aligned(a, second), aligned(b, first)
    value = first * second
    out = empty_dual(value, a.count)
    out.stack[0] = value
    torch.mul(a.tangents, b.stack[0], out=out.stack[1:]).addcmul_(b.tangents, a.stack[0])
    return out


@rule("div", "divide", "true_divide")
def div(context: Context, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """a / b; the tangent is ȧ/b − a/b · ḃ/b, and a rounded quotient has none."""
    if rounding_mode is not None:
        return torch.div(primal_of(a), primal_of(b), rounding_mode=rounding_mode)
    if not isinstance(b, Dual):
        return Dual(aligned(a, b).stack / b)
    a = moving(a, b.count) if isinstance(a, Tensor) else a
    quotient = primal_of(a) / b.primal
    b = aligned(b, quotient)
    moved = b.tangents * -quotient
    if isinstance(a, Dual):
        moved = aligned(a, quotient).tangents + moved
    return _stack(quotient, moved / b.stack[0])


@rule("__rdiv__", "__rtruediv__")
def rdiv(context: Context, a: Dual, b: Any) -> Dual:
    """b / a."""
    return div(context, b, a)


@rule("neg", "negative")
def neg(context: Context, a: Dual) -> Dual:
    """−a."""
    return Dual(-a.stack)


@rule("pow", "__pow__")
def power(context: Context, a: Any, exponent: Any) -> Dual:
    """aⁿ for a number n; the tangent is n aⁿ⁻¹ ȧ."""
    if isinstance(exponent, Tensor | Dual) or not isinstance(a, Dual):
        raise NoRuleError("an exponent that is no number")
    base = a.primal
    if exponent == 0:
        return moving(base**exponent, a.count)
    slope = base * 2 if exponent == 2 else exponent * base ** (exponent - 1)
    out = a if a.spare else empty_dual(base, a.count)
    torch.mul(a.tangents, slope, out=out.stack[1:])
    torch.pow(base, exponent, out=out.stack[0])
    return out


@rule("addcmul")
def addcmul(context: Context, a: Any, b: Any, c: Any, *, value: float = 1) -> Dual:
    """a + value · b · c."""
    if isinstance(b, Dual) or isinstance(c, Dual):
        return _sum(a, _times(mul(context, b, c), value))
    total = torch.addcmul(a.primal, b, c, value=value)
    return _stack(total, aligned(a, total).tangents)


@rule("__rpow__")
def rpow(context: Context, a: Dual, base: Any) -> Dual:
    """baseᵃ, for a base that is a positive number."""
    if isinstance(base, Tensor | Dual) or base <= 0:
        raise NoRuleError("a base that is no positive number")
    value = base**a.primal
    return _stack(value, a.tangents * (value * math.log(base)))


def larger(a: Any, b: Any, sign: int = 1) -> Dual:
    """The larger of two, or the smaller if `sign` is −1; equal entries give half of each one's tangent."""
    first, second = primal_of(a), primal_of(b)
    value = torch.maximum(first, second) if sign > 0 else torch.minimum(first, second)
    share = torch.where(first == second, 0.5, (first == value).to(value.dtype))
    shares = (a, share), (b, 1 - share)
    moved = [aligned(x, value).tangents * part for x, part in shares if isinstance(x, Dual)]
    return _stack(value, sum(moved[1:], moved[0]))


rule("maximum")(lambda context, a, b: larger(a, b))
rule("minimum")(lambda context, a, b: larger(a, b, -1))


@rule("prelu")
def prelu(context: Context, x: Any, weight: Any) -> Dual:
    """x where it is positive, and its channel's weight times x elsewhere."""
    primal = primal_of(x)
    spread = (-1, *[1] * (primal.dim() - 2)) if primal.dim() > 1 else (-1,)
    if isinstance(weight, Dual):
        weight = Dual(weight.stack.view(len(weight.stack), *spread))
    else:
        weight = weight.view(spread)
    positive = primal > 0
    above = Dual(x.stack * positive) if isinstance(x, Dual) else x * positive
    below = Dual(x.stack * ~positive) if isinstance(x, Dual) else x * ~positive
    return _sum(above, mul(context, below, weight))


@rule("matmul", "bmm", "mm", "mv", "dot", "__matmul__", raw=True)
def matmul(context: Context, a: Any, b: Any) -> Dual:
    """a b for […, n, m] and […, m, p]; the tangent is ȧ b + a ḃ, and one product gives a b and ȧ b."""
    if isinstance(context.tangent(b), RankOne) and b.dim() == 2 and primal_of(a).dim() > 1:
        return addmm_of(context, None, context.dual(a), b)
    a, b = context.dual(a), context.dual(b)
    one, other = primal_of(a), primal_of(b)
    if one.dim() < 2 or other.dim() < 2:
        return _of_vectors(context, a, b)
    if not isinstance(a, Dual):
        if a.layout != torch.strided:  # which multiplies no stack
            return Dual(torch.stack([a @ part for part in b.stack]), spare=True)
        return _stack(a @ other, a @ aligned(b, a).tangents)
    if not isinstance(b, Dual):
        return Dual(aligned(a, b).stack @ b, spare=True)
    a, b = aligned(a, other), aligned(b, one)
    out = a.stack @ b.stack[0]
    out[1:] += a.stack[0] @ b.tangents
    return Dual(out, spare=True)


RULES[torch.sparse.mm] = matmul


def _of_vectors(context: Context, a: Any, b: Any) -> Dual:
    """Multiply where a or b is a vector: a counts as one row, b as one column."""
    row, column = primal_of(a).dim() < 2, primal_of(b).dim() < 2

    def raised(x: Any, wanted: bool, dim: int) -> Any:
        if not wanted:
            return x
        return Dual(x.stack.unsqueeze(dim)) if isinstance(x, Dual) else x.unsqueeze(dim)

    out = matmul(context, raised(a, row, -2), raised(b, column, -1)).stack
    out = out.squeeze(-1) if column else out
    return Dual(out.squeeze(-1 if column else -2) if row else out)


@rule("outer", "ger")
def outer(context: Context, a: Any, b: Any) -> Dual:
    """The outer product of two vectors, as a column times a row."""
    a, b = (
        Dual(x.stack.unsqueeze(d)) if isinstance(x, Dual) else x.unsqueeze(d) for x, d in ((a, -1), (b, -2))
    )
    return mul(context, a, b)


@rule("addmm", raw=True)
def addmm(context: Context, bias: Any, x: Any, weight: Any, *, beta: float = 1, alpha: float = 1) -> Dual:
    """bias + x W, as in a layer whose weight is stored transposed: [n, in], [in, out] → [n, out]."""
    if beta != 1 or alpha != 1:
        raise NoRuleError("scaled")
    if isinstance(bias, Dual) or isinstance(weight, Dual) or bias.dim() != 1:
        return _sum(context.dual(bias), matmul(context, x, weight))
    return addmm_of(context, bias, context.dual(x), weight)


@rule("baddbmm")
def baddbmm(context: Context, a: Any, x: Any, y: Any, *, beta: float = 1, alpha: float = 1) -> Dual:
    """β a + α x y; as in torch, an a that β = 0 leaves out may hold anything, such as NaN."""
    moves = isinstance(x, Dual) or isinstance(y, Dual)
    product = _times(matmul(context, x, y) if moves else x @ y, alpha)
    if beta == 0:
        return moving(product, context.count)
    return _sum(_times(a, beta), product)


def addmm_of(context: Context, bias: Tensor | None, x: Any, weight: Tensor) -> Dual:
    """bias + x W for x [(…), in], a parameter W [in, out] whose rank-one tangents stay factors, and a bias
    [out] or None."""
    along = context.tangent(weight)
    return linear_along(context, x, weight.t(), bias, along and along.turned())


def _times(x: Any, factor: float) -> Any:
    return Dual(x.stack * factor) if isinstance(x, Dual) else x * factor


def _sum(a: Any, b: Any, alpha: float = 1) -> Dual:
    """a + alpha · b, written over one of them where that is spare."""
    if isinstance(a, Dual) and isinstance(b, Dual):
        if b.spare and alpha == 1:
            a, b = b, a
        if a.spare and alike(a, b):
            a.stack.add_(b.stack, alpha=alpha)
            return a
        a, b = aligned(a, b.primal), aligned(b, a.primal)
        return Dual(torch.add(a.stack, b.stack, alpha=alpha), spare=True)
    if not isinstance(a, Dual):
        a, b, alpha = b if alpha == 1 else _times(b, alpha), a, 1
    a = aligned(a, b)
    # PyTorch scales b, as alpha times unsigned integers would wrap around.
    value = a.primal + b if alpha == 1 else torch.add(a.primal, b, alpha=alpha)
    if value.dtype == a.stack.dtype:
        out = empty_dual(value, a.count)
        out.stack[0] = value
        out.stack[1:] = a.tangents
        return out
    return _stack(value, a.tangents)


def _stack(value: Tensor, tangents: Tensor) -> Dual:
    """Stack a value and its tangents, which are broadcast to the value's shape."""
    return dual_of(value, tangents.expand(-1, *value.shape))


def _spreads_over(x: Any, dual: Dual) -> bool:
    """Whether an operation of x and a value with tangents has the value's shape and dtype."""
    if not isinstance(x, Tensor) or x.dtype != dual.stack.dtype or x.dim() >= dual.stack.dim():
        return False
    return all(n in (1, size) for n, size in zip(reversed(x.shape), reversed(dual.stack.shape), strict=False))


def alike(a: Dual, b: Dual) -> bool:
    """Whether an operation on both gives what has a's shape and dtype."""
    return a.stack.shape == b.stack.shape and a.stack.dtype == b.stack.dtype


def aligned(x: Dual, other: Any) -> Dual:
    """Give x as many dimensions as `other` has, so that both broadcast, the stack's first dimension aside."""
    missing = other.dim() - x.stack.dim() + 1 if isinstance(other, Tensor) else 0
    if missing <= 0:
        return x
    if x.stack.dtype != other.dtype:  # torch lets a scalar's dtype give way, but the stack is none
        x = Dual(x.stack.to(torch.result_type(x.primal, other)))
    return Dual(x.stack.reshape(len(x.stack), *[1] * missing, *x.stack.shape[1:]))
