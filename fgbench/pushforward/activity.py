"""Activity perturbation (Ren et al. 2023, arXiv 2210.03310): noise is added to the layers' outputs.

With noise ε on a layer's output z, (∇f·ε) ε estimates ∂f/∂z, and the layer's own chain rule turns that
into an estimate for its parameters: Σ_b d_b ε_b x_bᵀ for y = x Wᵀ. Where no sample's output depends on
another sample, each has a derivative d_b of its own, which the other samples' noise does not disturb.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, empty_dual, map_duals, primal_of
from fgbench.pushforward.fallback import by_jvp
from fgbench.pushforward.rules import NoRuleError, of_names, read_all
from fgbench.pushforward.samples import Layout
from fgbench.pushforward.tangents import Tangent

aten = torch.ops.aten

# The operations of layers. Their outputs are perturbed if one of their parameters is trained.
LAYERS = set(
    of_names(
        *[
            "linear",
            "addmm",
            "conv1d",
            "conv2d",
            "conv3d",
            "conv_transpose1d",
            "conv_transpose2d",
            "conv_transpose3d",
            "embedding",
            "embedding_bag",
            "bilinear",
            "batch_norm",
            "layer_norm",
            "group_norm",
            "instance_norm",
            "rms_norm",
            "prelu",
        ]
    )
)
LINEAR, ADDMM, EMBEDDING = (set(of_names(name)) for name in ("linear", "addmm", "embedding"))
CONVOLUTIONS = set(of_names("conv1d", "conv2d", "conv3d"))


@dataclass(frozen=True)
class Outer:
    """A sum of outer products of rows, Σ_b left_b right_bᵀ, kept as its two factors.

    Attributes:
        left: [rows, m].
        right: [rows, n].
    """

    left: Tensor
    right: Tensor

    def full(self) -> Tensor:
        """[m, n]."""
        return self.left.t() @ self.right

    def add_to(self, parameter: Tensor, scale: float) -> None:
        """Add `scale` times the sum to `parameter`, [m, n], without a temporary of its size."""
        parameter.addmm_(self.left.t().to(parameter.dtype), self.right.to(parameter.dtype), alpha=scale)


Addition = tuple[Tensor, "Tensor | Outer"]
"""A parameter and what is to be added to it."""


@dataclass(frozen=True)
class Site:
    """An operation whose output was perturbed in this pass.

    Attributes:
        number: the operation's place among the layers' operations of a pass.
        function: torch's function.
        arguments, options: its positional and named arguments, without tangents.
        noise: [k, *output].
        layout: which dimension of the output counts samples; None where all share one derivative.
    """

    number: int
    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    noise: Tensor
    layout: Layout | None

    def weighted(self, weights: Tensor) -> Tensor:
        """Σ_k weights · noise, [*output]; weights: [k, B] or [k, 1]."""
        spread = (self.layout or Layout()).spread(weights.to(self.noise.dtype), self.noise.shape[1:])
        return self.noise[0] * spread[0] if len(spread) == 1 else (spread * self.noise).sum(0)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters among its arguments that are trained."""
        given = (*self.arguments, *self.options.values())
        return [p for p in given if isinstance(p, nn.Parameter) and p.requires_grad]


class ActivityContext(Context):
    """A pass with noise on the output of every layer's operation.

    Attributes:
        sites: the operations that were perturbed, in order.
        free: ids of trained parameters that a function other than a layer's was given.
        layouts: where samples are in each operation that can be perturbed, by number; None if all can be.
        wanted: the numbers of the operations to perturb in this pass; None for all that can be.
    """

    noisy = True

    def __init__(
        self,
        count: int,
        noise: Callable[[int, Tensor], Tensor],
        tangents: Mapping[int, Tangent],
        layouts: Mapping[int, Layout] | None = None,
        wanted: Collection[int] | None = None,
    ) -> None:
        """Begin a pass.

        Args:
            count: k.
            noise: gives the noise, [k, *output], for an operation's number and its output.
            tangents: by id, those of parameters that belong to no layer.
            layouts, wanted: as of the attributes.
        """
        super().__init__(count, tangents)
        self.layouts, self.wanted, self.met = layouts, wanted, 0
        self.noise = noise
        self.sites: list[Site] = []
        self.free: set[int] = set()

    def again(self) -> ActivityContext:
        """A fresh context with the same perturbation, for another pass."""
        return ActivityContext(self.count, self.noise, self.tangents, self.layouts, self.wanted)

    def at(self, function: Any, arguments: Any, options: Any) -> Callable[..., Any] | None:
        """What runs in the place of a function whose output is perturbed; None for any other."""
        given = [leaf for leaf in (*arguments, *options.values()) if isinstance(leaf, nn.Parameter)]
        if function in LAYERS:
            if not any(p.requires_grad for p in given):
                return None
            number, self.met = self.met, self.met + 1
            if self.layouts is None or number in self.layouts:
                if self.wanted is None or number in self.wanted:
                    return _perturbed(function, number)
                # A parameter that has tangents in another function has none in a layer's operation.
                return _standing(function) if any(id(p) in self.tangents for p in given) else None
        self.free.update(id(p) for p in given if p.requires_grad)
        return None


@cache
def _perturbed(function: Any, number: int) -> Callable[..., Any]:
    """A layer's operation with noise added to its output; its parameters have no tangents."""
    rule = read_all().get(function)

    def perturbed(context: ActivityContext, *arguments: Any, **options: Any) -> Dual:
        output = _still_layer(context, function, rule, arguments, options)
        value = primal_of(output)
        noise = context.noise(number, value)
        site = Site(
            number,
            function,
            tuple(map_duals(primal_of, arguments)),
            dict(map_duals(primal_of, options)),
            noise,
            None if context.layouts is None else context.layouts[number],
        )
        if function in EMBEDDING:
            _padding_still(site)
        context.sites.append(site)
        if not isinstance(output, Dual):
            output = empty_dual(value, context.count)
            output.stack[0] = value
            output.stack[1:] = noise
        elif output.spare:
            output.tangents.add_(noise)
        else:
            output = Dual(output.stack.clone(), spare=True)
            output.tangents.add_(noise)
        return output

    return perturbed


@cache
def _standing(function: Any) -> Callable[..., Any]:
    """A layer's operation without noise, whose parameters have no tangents."""
    rule = read_all().get(function)

    def standing(context: Context, *arguments: Any, **options: Any) -> Any:
        return _still_layer(context, function, rule, arguments, options)

    return standing


def _still_layer(context: Context, function: Any, rule: Any, arguments: Any, options: Any) -> Any:
    if not any(isinstance(a, Dual) for a in (*arguments, *options.values())):
        return function(*arguments, **options)
    inside = Context(context.count, {}, first=context.first)
    if rule is not None:
        try:
            return rule(inside, *arguments, **options)
        except (NoRuleError, TypeError):
            pass
    return by_jvp(inside, function, arguments, options)


def _padding_still(site: Site) -> None:
    """Set the noise of padding entries to zero: an embedding's padding row is not trained."""
    padding = site.options.get("padding_idx", site.arguments[2] if len(site.arguments) > 2 else None)
    if padding is not None:
        index, weight = site.arguments[:2]
        site.noise.mul_((index != padding % len(weight)).unsqueeze(-1))


def additions(sites: Sequence[Site], weights: Tensor) -> list[Addition]:
    """The gradient estimate for the parameters of every site; weights of the noise: [k, B] or [k, 1]."""
    found: list[Addition] = []
    for site in sites:
        found += _of_site(site, site.weighted(weights))
    return found


def _of_site(site: Site, cotangent: Tensor) -> list[Addition]:
    """The operation's chain rule, from the cotangent [*output] to its trained parameters."""
    if site.function in LINEAR and len(site.arguments) > 1:
        x, weight, *bias = site.arguments
        rows = cotangent.reshape(-1, cotangent.shape[-1])
        outer = Outer(rows, x.reshape(-1, x.shape[-1]))
        return _trained([(weight, outer)], rows, [*bias, site.options.get("bias")])
    if site.function in ADDMM and len(site.arguments) == 3:
        bias_, x, weight = site.arguments
        return _trained([(weight, Outer(x, cotangent))], cotangent, [bias_])
    if site.function in EMBEDDING and not site.options.get("scale_grad_by_freq") and len(site.arguments) < 6:
        index, weight = site.arguments[:2]
        rows = cotangent.reshape(-1, cotangent.shape[-1])
        return [(weight, torch.zeros_like(weight).index_add_(0, index.reshape(-1), rows))]
    if site.function in CONVOLUTIONS and not site.options and _numbers(site.arguments[3:]):
        return _of_convolution(site, cotangent)
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
