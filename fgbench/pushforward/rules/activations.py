"""Elementwise functions: ẏ = f'(x) ẋ, by the kernels that reverse mode uses for f'(x) times a tensor."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, dual_of
from fgbench.pushforward.rules import NoRuleError, function_rule, module_rule

aten = torch.ops.aten


@module_rule(nn.ReLU)
def relu_module(context: Context, module: nn.ReLU, x: Dual) -> Dual:
    """nn.ReLU; never in place: its input may be used again."""
    return relu(context, x)


@function_rule(F.relu, torch.relu, "relu", F.relu_, torch.relu_, "relu_")
def relu(context: Context, x: Dual, inplace: bool = False) -> Dual:
    """One masked pass over the value and its tangents."""
    if not x.spare:
        return Dual(aten.threshold_backward(x.stack, x.primal, 0), spare=True)
    for tangent in x.tangents:  # the value last: all are masked by it
        aten.threshold_backward.grad_input(tangent, x.primal, 0, grad_input=tangent)
    x.primal.relu_()
    return x


@module_rule(nn.GELU)
def gelu_module(context: Context, module: nn.GELU, x: Dual) -> Dual:
    """nn.GELU."""
    return gelu(context, x, module.approximate)


@function_rule(F.gelu)
def gelu(context: Context, x: Dual, approximate: str = "none") -> Dual:
    """Exact or by tanh."""
    # Tangent by tangent: oneDNN's kernel, which large float32 tensors meet, does not broadcast.
    stack = torch.empty_like(x.stack)
    stack[0].copy_(F.gelu(x.primal, approximate=approximate))
    for tangent, along in zip(x.tangents, stack[1:], strict=True):
        along.copy_(aten.gelu_backward(tangent, x.primal, approximate=approximate))
    return Dual(stack, spare=True)


@module_rule(nn.SiLU)
def silu_module(context: Context, module: nn.SiLU, x: Dual) -> Dual:
    """nn.SiLU."""
    return silu(context, x)


@function_rule(F.silu)
def silu(context: Context, x: Dual, inplace: bool = False) -> Dual:
    """x σ(x)."""
    return dual_of(F.silu(x.primal), aten.silu_backward(x.tangents, x.primal))


@module_rule(nn.Tanh)
def tanh_module(context: Context, module: nn.Tanh, x: Dual) -> Dual:
    """nn.Tanh."""
    return tanh(context, x)


@function_rule(torch.tanh, F.tanh, "tanh")
def tanh(context: Context, x: Dual) -> Dual:
    """1 − tanh²."""
    value = torch.tanh(x.primal)
    return dual_of(value, aten.tanh_backward(x.tangents, value))


@module_rule(nn.Sigmoid)
def sigmoid_module(context: Context, module: nn.Sigmoid, x: Dual) -> Dual:
    """nn.Sigmoid."""
    return sigmoid(context, x)


@function_rule(torch.sigmoid, F.sigmoid, "sigmoid")
def sigmoid(context: Context, x: Dual) -> Dual:
    """σ (1 − σ)."""
    value = torch.sigmoid(x.primal)
    return dual_of(value, aten.sigmoid_backward(x.tangents, value))


@function_rule(torch.softmax, F.softmax, "softmax")
def softmax(context: Context, x: Dual, dim: int, *rest: Any, **options: Any) -> Dual:
    """ṡ = s (ẋ − ⟨s, ẋ⟩)."""
    x = _cast(x, (*rest, *options.values()))
    value = torch.softmax(x.primal, dim)
    return dual_of(value, softmax_tangents(x.tangents, value, dim))


@module_rule(nn.Softmax)
def softmax_module(context: Context, module: nn.Softmax, x: Dual) -> Dual:
    """nn.Softmax with its dimension given."""
    return softmax(context, x, no_rule_unless_int(module.dim))


@function_rule(torch.log_softmax, F.log_softmax, "log_softmax")
def log_softmax(context: Context, x: Dual, dim: int, *rest: Any, **options: Any) -> Dual:
    """ẋ − ⟨softmax(x), ẋ⟩."""
    x = _cast(x, (*rest, *options.values()))
    value = torch.log_softmax(x.primal, dim)
    along = dim % x.primal.dim() + 1
    mean = (x.tangents * value.exp()).sum(along, keepdim=True)
    return dual_of(value, x.tangents - mean)


@module_rule(nn.LogSoftmax)
def log_softmax_module(context: Context, module: nn.LogSoftmax, x: Dual) -> Dual:
    """nn.LogSoftmax with its dimension given."""
    return log_softmax(context, x, no_rule_unless_int(module.dim))


def softmax_tangents(tangents: Any, value: Any, dim: int) -> Any:
    """s (ẋ − ⟨s, ẋ⟩) for tangents [k, *shape] and a softmax [*shape] over `dim`."""
    weighted = tangents * value
    along = dim % value.dim() + 1
    return weighted - value * weighted.sum(along, keepdim=True)


def _cast(x: Dual, given: tuple[Any, ...]) -> Dual:
    """To the dtype among the arguments, if there is one."""
    wanted = next((a for a in given if isinstance(a, torch.dtype)), x.stack.dtype)
    return x if wanted == x.stack.dtype else Dual(x.stack.to(wanted))


def no_rule_unless_int(dim: Any) -> int:
    """A softmax's dimension, which used to be optional."""
    if not isinstance(dim, int):
        raise NoRuleError(f"dim={dim}")
    return dim
