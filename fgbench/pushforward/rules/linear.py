"""Rules of layers with a weight: y = x Wᵀ + b, ẏ = ẋ Wᵀ + x Ẇᵀ + ḃ; one matmul gives x Wᵀ and ẋ Wᵀ."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, empty_dual, merged, primal_of, unmerged
from fgbench.pushforward.rules import NoRuleError, rule
from fgbench.pushforward.tangents import Full, RankOne, Tangent

FEWEST_CHANNELS_FOR_TAPS = 8  # with fewer, the plain convolution of `_response` is cheap


@rule("linear", raw=True)
def linear(context: Context, x: Any, weight: Any, bias: Any = None) -> Any:
    """[…, n] → […, m]; the context gives the tangents of weight and bias."""
    if isinstance(bias, Dual):
        return _computed(linear(context, x, weight), bias, channel_dim=-1)
    weight, along = _weight(context, weight)
    if weight.dim() < 2:
        raise NoRuleError("a weight of one output")
    return linear_along(context, context.dual(x), weight, bias, along)


def linear_along(context: Context, x: Any, weight: Tensor, bias: Tensor | None, along: Tangent | None) -> Any:
    """As `linear`, but with the weight's tangents given; None if it has none."""
    primal, shift = primal_of(x), context.tangent(bias)
    out = Dual(primal.new_empty((1 + context.count, *primal.shape[:-1], len(weight))), spare=True)
    begun = begin(
        out.tangents,
        _factors(primal, along, out.stack.dim()) if isinstance(along, RankOne) else None,
        None if shift is None else _spread(shift.full(), out.tangents, channel_dim=-1),
    )
    if isinstance(x, Dual):
        _add_product(out, x, weight, bias, begun)
    else:
        _product(out.primal, x, weight, bias)
        if not begun:
            out.tangents.zero_()
    if along is not None and not isinstance(along, RankOne):
        _add_full(out.tangents, primal, along)
    return out


def begin(tangents: Tensor, factors: tuple[Tensor, Tensor] | None, shift: Tensor | None) -> bool:
    """Write the product of two factors and a shift, which broadcast, into memory for tangents.

    What else makes up the tangents is added to that, which saves passes over them.

    Returns:
        Whether there was anything to write; if not, the memory is as it was.
    """
    if factors is None:
        if shift is not None:
            tangents.copy_(shift.expand_as(tangents))
    elif shift is None:
        torch.mul(*factors, out=tangents)
    else:
        torch.addcmul(shift, *factors, out=tangents)
    return factors is not None or shift is not None


def _add_product(out: Dual, x: Dual, weight: Tensor, bias: Tensor | None, begun: bool) -> None:
    """Write x Wᵀ + b, and write ẋ Wᵀ or add it to tangents that are begun."""
    stack, rows = out.stack.view(-1, len(weight)), x.stack.reshape(-1, x.stack.shape[-1])
    if not begun:
        torch.mm(rows, weight.t(), out=stack)
        if bias is not None:
            out.primal.add_(bias)
        return
    if bias is None:
        out.primal.zero_()
    else:
        out.primal.copy_(bias.expand_as(out.primal))
    stack.addmm_(rows, weight.t())


def _product(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Write x Wᵀ + b, […, m]."""
    rows, into = x.reshape(-1, x.shape[-1]), out.view(-1, len(weight))
    if bias is None:
        torch.mm(rows, weight.t(), out=into)
    else:
        torch.addmm(bias, rows, weight.t(), out=into)


def _factors(x: Tensor, weight: RankOne, dims: int) -> tuple[Tensor, Tensor]:
    """The factors x·w and u of (x·w) uᵀ, which broadcast to [k, …, m]; this takes no matmul of full size."""
    strength = F.linear(x, weight.right).movedim(-1, 0).unsqueeze(-1)
    return strength, weight.left.view(weight.count, *[1] * (dims - 2), -1)


def _add_full(tangents: Tensor, x: Tensor, weight: Tangent) -> None:
    """tangents [k, …, m] += x Ẇᵀ; in place."""
    rows = x.reshape(1, -1, x.shape[-1])
    full = weight.full().transpose(1, 2)
    # This is a view and never a copy, because the rule allocated the tangents in one piece.
    flat = tangents.unsqueeze(1) if x.dim() == 1 else tangents.flatten(1, -2)
    flat.baddbmm_(rows.expand(len(full), *rows.shape[1:]), full)


@rule("conv1d", "conv2d", "conv3d", raw=True)
def convolution(
    context: Context,
    x: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """Convolution, [B, channels, …] → [B, m, …]; the context gives the tangents of weight and bias."""
    if isinstance(bias, Dual):
        out = convolution(context, x, weight, None, stride, padding, dilation, groups)
        return _computed(out, bias, channel_dim=1)
    x = context.dual(x)
    weight, tangent = _weight(context, weight)
    if (x.stack.dim() - 1 if isinstance(x, Dual) else x.dim()) != weight.dim():
        raise NoRuleError("no batch")
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()]
    geometry = stride, padding, dilation, groups
    out, primal = _convolved(context, convolve, x, weight, bias, geometry)
    if isinstance(tangent, RankOne):
        response = _response(primal, tangent.right, stride, padding, dilation, groups)
        _add_response(out.tangents, response, tangent.left)
    elif tangent is not None:
        for into, kernel in zip(out.tangents, tangent.full(), strict=True):
            into.add_(convolve(primal, kernel, None, *geometry))
    return out


def _convolved(
    context: Context, convolve: Any, x: Any, weight: Tensor, bias: Tensor | None, geometry: tuple[Any, ...]
) -> tuple[Dual, Tensor]:
    """The output as far as x and the bias move it, and the value of x."""
    if not isinstance(x, Dual):
        return _still_input(context, convolve(x, weight, bias, *geometry), bias), x
    out = unmerged(convolve(merged(x), weight, None, *geometry), x, spare=True)
    _add_bias(context, out, bias)
    return out, x.primal


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", raw=True)
def transposed_convolution(
    context: Context,
    x: Any,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Transposed convolution, [B, channels, …] → [B, m, …], with a weight [channels, m / groups, …]."""
    if isinstance(bias, Dual):
        out = transposed_convolution(
            context, x, weight, None, stride, padding, output_padding, groups, dilation
        )
        return _computed(out, bias, channel_dim=1)
    x = context.dual(x)
    weight, tangent = _weight(context, weight)
    if (x.stack.dim() - 1 if isinstance(x, Dual) else x.dim()) != weight.dim():
        raise NoRuleError("no batch")
    convolve = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[weight.dim()]
    geometry = stride, padding, output_padding, groups, dilation
    out, primal = _convolved(context, convolve, x, weight, bias, geometry)
    if isinstance(tangent, RankOne):
        for into, left, right in zip(out.tangents, tangent.left, tangent.right, strict=True):
            weighted = primal * left.view(-1, *[1] * (primal.dim() - 2))
            by_group = weighted.unflatten(1, (groups, -1)).sum(2)  # this leaves one channel of each group
            into.add_(convolve(by_group, right.expand(groups, *right.shape), None, *geometry))
    elif tangent is not None:
        for into, kernel in zip(out.tangents, tangent.full(), strict=True):
            into.add_(convolve(primal, kernel, None, *geometry))
    return out


def _add_response(tangents: Tensor, response: Tensor, left: Tensor) -> None:
    """tangents [k, B, m, …] += response [k, B, groups, …] · left [k, m]; in place."""
    groups = response.shape[2]
    by_group = tangents.unflatten(2, (groups, -1))
    spread = left.view(len(left), 1, groups, -1, *[1] * (tangents.dim() - 3))
    by_group.addcmul_(response.unsqueeze(3), spread)


def _response(x: Tensor, right: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    """x [B, channels, …] convolved with k kernels of one output channel: [k, B, groups, …]."""
    count = len(right)
    if _taps_pay(x, stride, padding, dilation, groups):
        return _by_taps(x, right, stride, padding, dilation)
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.dim()]
    out = convolve(x, right.repeat(groups, *[1] * (right.dim() - 1)), None, stride, padding, dilation, groups)
    return out.unflatten(1, (groups, count)).movedim(2, 0)


def _taps_pay(x: Tensor, *geometry: Any) -> bool:
    """Whether to use `_by_taps`; on a CPU, a plain convolution to one channel takes four times as long."""
    *sizes, groups = geometry
    plain = x.dim() == 4 and not any(isinstance(s, str) for s in sizes)
    return plain and groups == 1 and x.device.type == "cpu" and x.shape[1] >= FEWEST_CHANNELS_FOR_TAPS


def _by_taps(x: Tensor, right: Tensor, *sizes: Any) -> Tensor:
    """The convolution as one matmul over the channels for all taps of the kernels, whose results are shifted
    and added up."""
    stride, padding, dilation = (s if isinstance(s, tuple | list) else (s, s) for s in sizes)
    batch, channels, *size = x.shape
    count, _, *kernel = right.shape
    taps = right.permute(2, 3, 0, 1).reshape(-1, channels)
    if x.is_contiguous():
        planes = torch.matmul(taps, x.flatten(2)).transpose(0, 1)
    else:
        planes = taps @ x.permute(0, 2, 3, 1).reshape(-1, channels).t()
    planes = planes.reshape(*kernel, count, batch, *size)
    planes = F.pad(planes, (padding[1], padding[1], padding[0], padding[0]))
    reach = [(t - 1) * d for t, d in zip(kernel, dilation, strict=True)]
    stop = [n - r for n, r in zip(planes.shape[-2:], reach, strict=True)]
    shifted = [
        planes[i, j, ..., down : down + stop[0] : stride[0], across : across + stop[1] : stride[1]]
        for i, down in enumerate(range(0, reach[0] + 1, dilation[0]))
        for j, across in enumerate(range(0, reach[1] + 1, dilation[1]))
    ]
    out = shifted[0].clone()
    for plane in shifted[1:]:
        out += plane
    return out.unsqueeze(2)


@rule("embedding", raw=True)
def embedding(
    context: Context,
    index: Tensor,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """Rows of the weight, and the same rows of its tangents: [*shape] → [*shape, features].

    As in reverse mode, a padding row gets no tangent where it is looked up, and with `scale_grad_by_freq`
    a row's tangents are divided by how often it occurs.
    """
    moving = isinstance(weight, Dual)
    value = F.embedding(index, weight.primal if moving else weight.detach(), None, max_norm, norm_type)
    tangent = Full(weight.tangents) if moving else context.tangent(weight)
    if tangent is None:
        return value
    out = empty_dual(value, context.count)
    out.stack[0] = value
    if isinstance(tangent, RankOne):
        right = tangent.right.view(tangent.count, *[1] * index.dim(), -1)
        torch.mul(tangent.left[:, index].unsqueeze(-1), right, out=out.stack[1:])
    else:
        out.stack[1:] = tangent.full()[:, index]
    if padding_idx is not None:
        out.tangents.mul_((index != padding_idx % len(primal_of(weight))).unsqueeze(-1))
    if scale_grad_by_freq:
        once = torch.ones_like(index.flatten())
        occurs = once.new_zeros(len(primal_of(weight))).index_add_(0, index.flatten(), once)[index]
        out.tangents.div_(occurs.unsqueeze(-1))
    return out


def _computed(out: Dual, bias: Dual, channel_dim: int) -> Dual:
    """Add a bias that was computed from other tensors, and its tangents."""
    out.stack.add_(_spread(bias.stack, out.stack, channel_dim))
    return out


def _weight(context: Context, weight: Any) -> tuple[Tensor, Tangent | None]:
    """The weight and its tangents, whether it is a parameter or was computed."""
    if isinstance(weight, Dual):
        return weight.primal, Full(weight.tangents)
    return weight, context.tangent(weight)


def _still_input(context: Context, value: Tensor, bias: Tensor | None) -> Dual:
    """The output of a convolution whose input has no tangents; its tangents hold those of the bias so far."""
    out = empty_dual(value, context.count)
    out.stack[0] = value
    tangent = context.tangent(bias)
    out.stack[1:] = 0 if tangent is None else _spread(tangent.full(), out.tangents, channel_dim=1)
    return out


def _add_bias(context: Context, out: Dual, bias: Tensor | None) -> None:
    """Add a convolution's bias to the value alone, and the bias's tangents to the tangents."""
    if bias is None:
        return
    out.primal.add_(_spread(bias.unsqueeze(0), out.stack[:1], channel_dim=1)[0])
    tangent = context.tangent(bias)
    if tangent is not None:
        out.tangents.add_(_spread(tangent.full(), out.tangents, channel_dim=1))


def _spread(rows: Tensor, like: Tensor, channel_dim: int) -> Tensor:
    """Reshape [k, m] so that m lies at `channel_dim` of each tangent and broadcasts over the others."""
    position = channel_dim % (like.dim() - 1) + 1
    shape = [1] * like.dim()
    shape[0], shape[position] = rows.shape
    return rows.reshape(shape)
