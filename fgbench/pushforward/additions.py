"""Gradient estimates for layers' parameters, from weighted noise on the layers' outputs by the chain rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fgbench.pushforward.activity import EMBEDDING, Site
from fgbench.pushforward.rules import of_names

aten = torch.ops.aten

LINEAR, ADDMM = (set(of_names(name)) for name in ("linear", "addmm"))
LAYER_NORM = set(of_names("layer_norm"))
CONVOLUTIONS = set(of_names("conv1d", "conv2d", "conv3d"))


@dataclass(frozen=True)
class Outer:
    """A sum of outer products of rows, Σ_b left_b right_bᵀ, kept as its two factors.

    Attributes:
        left: the left factors, [rows, m].
        right: the right factors, [rows, n].
    """

    left: Tensor
    right: Tensor

    def full(self) -> Tensor:
        """The sum as a matrix, [m, n]."""
        return self.left.t() @ self.right

    def add_to(self, parameter: Tensor, scale: float) -> None:
        """Add `scale` times the sum to `parameter`, [m, n], without a temporary of its size."""
        parameter.addmm_(self.left.t().to(parameter.dtype), self.right.to(parameter.dtype), alpha=scale)


Addition = tuple[Tensor, "Tensor | Outer"]
"""A parameter and the gradient estimate for it."""


def additions(sites: Sequence[Site], weights: Tensor) -> list[Addition]:
    """The gradient estimates for the parameters of all sites, from the noise's weights, [k, B] or [k, 1]."""
    found: list[Addition] = []
    for site in sites:
        found += _of_site(site, weights)
    return found


def _of_site(site: Site, weights: Tensor) -> list[Addition]:
    """Apply the operation's chain rule to the weighted noise; frozen parameters are left out."""
    first = 1 if site.function in ADDMM else 0
    if any(isinstance(x, nn.Parameter) and x.requires_grad for x in site.arguments[first : first + 1]):
        return _by_vjp(site, site.weighted(weights))  # the input is trained too, as learned queries are
    if site.function in LINEAR and len(site.arguments) > 1:
        x, weight, *bias = site.arguments
        left, right, rows = _rows(site, x, weights)
        return _trained([(weight, Outer(left, right))], rows, [*bias, site.options.get("bias")])
    if site.function in ADDMM and len(site.arguments) == 3 and not site.options:  # no alpha, no beta
        bias_, x, weight = site.arguments
        left, right, rows = _rows(site, x, weights)
        return _trained([(weight, Outer(right, left))], rows, [bias_])
    return _of_other(site, site.weighted(weights))


def _of_other(site: Site, cotangent: Tensor) -> list[Addition]:
    """The estimates for an operation that is no product of rows and a matrix."""
    if site.function in EMBEDDING and not site.options.get("scale_grad_by_freq") and len(site.arguments) < 6:
        index, weight = site.arguments[:2]
        rows = cotangent.reshape(-1, cotangent.shape[-1])
        return [(weight, torch.zeros_like(weight).index_add_(0, index.reshape(-1), rows))]
    if site.function in CONVOLUTIONS and not site.options and _numbers(site.arguments[3:]):
        return _of_convolution(site, cotangent)
    if site.function in LAYER_NORM:
        return _of_layer_norm(cotangent, *site.arguments, **site.options)
    if site.function is F.batch_norm:  # torch.batch_norm has its arguments in another order
        return _of_batch_norm(cotangent, *site.arguments, **site.options)
    return _by_vjp(site, cotangent)


def _trained(found: list[Any], rows: Tensor, biases: list[Any]) -> list[Addition]:
    found += [(bias, rows.sum(0)) for bias in biases if bias is not None]
    return [(p, g) for p, g in found if isinstance(p, nn.Parameter) and p.requires_grad]


def _numbers(geometry: Any) -> bool:
    return not any(isinstance(g, str) for g in geometry)


def _of_convolution(site: Site, cotangent: Tensor) -> list[Addition]:
    """The gradients of kernel and bias alone; the forward convolution is not run again."""
    x, weight, *rest = site.arguments
    left_out: list[Any] = [None, 1, 0, 1, 1]
    bias, stride, padding, dilation, groups = [*rest, *left_out[len(rest) :]]
    sizes = [
        list(s) if isinstance(s, tuple | list) else [s] * (weight.dim() - 2)
        for s in (stride, padding, dilation)
    ]
    wanted = [False, weight.requires_grad, bias is not None and bias.requires_grad]
    _, kernel, shift = aten.convolution_backward(
        cotangent,
        x,
        weight,
        None if bias is None else [len(bias)],
        *sizes,
        False,
        [0] * len(sizes[0]),
        groups,
        wanted,
    )
    pairs = ((weight, kernel), (bias, shift))
    return [(p, g) for p, g in pairs if g is not None and isinstance(p, nn.Parameter) and p.requires_grad]


def _of_layer_norm(
    cotangent: Tensor,
    input: Tensor,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
    **__: Any,
) -> list[Addition]:
    """The gradients of scale and shift alone."""
    shape = list(normalized_shape)
    _, mean, scale = aten.native_layer_norm(input, shape, weight, bias, eps)
    wanted = [False, weight is not None, bias is not None]
    given = cotangent.contiguous(), input.contiguous(), shape, mean, scale, weight, bias
    _, *found = aten.native_layer_norm_backward(*given, wanted)
    return _trained(list(zip((weight, bias), found, strict=True)), cotangent, [])


def _of_batch_norm(
    cotangent: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> list[Addition]:
    """The same, with the statistics that the forward pass had; running ones are left alone."""
    running = (None, None) if training else (running_mean, running_var)
    _, mean, scale = aten.native_batch_norm(input, weight, bias, *running, training, 0.0, eps)
    wanted = [False, weight is not None, bias is not None]
    kept = *running, mean, scale, training, eps, wanted
    _, *found = aten.native_batch_norm_backward(cotangent, input, weight, *kept)
    return _trained(list(zip((weight, bias), found, strict=True)), cotangent, [])


def _by_vjp(site: Site, cotangent: Tensor) -> list[Addition]:
    trained = {id(p): p for p in site.parameters}

    def call(parameters: dict[int, Tensor]) -> Tensor:
        def put(leaf: Any) -> Any:
            if id(leaf) in parameters or not isinstance(leaf, Tensor) or leaf is site.arguments[0]:
                return parameters.get(id(leaf), leaf)
            return leaf.detach() if isinstance(leaf, nn.Parameter) else leaf.clone()  # running statistics

        named = {key: put(leaf) for key, leaf in site.options.items()}
        return site.function(*map(put, site.arguments), **named)

    with torch.enable_grad():
        _, pull = torch.func.vjp(call, {key: p.detach() for key, p in trained.items()})  # type: ignore[misc]
        (gradients,) = pull(cotangent)
    return [(p, gradients[key].detach()) for key, p in trained.items()]


def _rows(site: Site, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The factors of the estimate for an operation that multiplies the rows of x by a matrix.

    If all samples share the noise, k outer products for each row of a sample suffice.

    Returns:
        Rows of noise and as many rows of input, whose outer products add up to the matrix's estimate, and
        rows that add up to a bias's estimate.
    """
    samples = weights.shape[1]
    if site.layout is None or not site.shared or len(weights) >= samples:
        left = site.weighted(weights)
        left = left.reshape(-1, left.shape[-1])
        return left, x.reshape(-1, x.shape[-1]), left
    one = site.layout.by_sample(site.noise, samples, 1)[:, 0]
    mixed = weights.to(x.dtype) @ site.layout.by_sample(x, samples).flatten(1)
    whole = torch.tensordot(weights.sum(1).to(one.dtype), one, dims=1)
    width = one.shape[-1]
    return one.reshape(-1, width), mixed.reshape(-1, x.shape[-1]), whole.reshape(-1, width)
