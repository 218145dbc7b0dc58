"""Activity perturbation (Ren et al. 2023, arXiv 2210.03310): noise is added to the layers' outputs.

With noise ε on a layer's output z, (∇f·ε) ε estimates ∂f/∂z, and the layer's own chain rule turns that
into an estimate for its parameters: Σ_b d_b ε_b x_bᵀ for y = x Wᵀ. Where no sample's output depends on
another sample, each has a derivative d_b of its own, which the other samples' noise does not disturb.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, empty_dual, map_duals, primal_of
from fgbench.pushforward.fallback import by_jvp
from fgbench.pushforward.rules import NoRuleError, of_names, read_all
from fgbench.pushforward.samples import Layout
from fgbench.pushforward.tangents import Tangent

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
OTHER_LAYERS = (
    "forward:structure=activity knows a layer by its place in the pass, and this model runs other layers in "
    "other passes, as where layers are left out at random: turn that off, or use another structure, as "
    "structure=rank-one."
)
IN_LOSS = (
    "forward:structure=activity knows the layers of the model, and here the loss runs one too, with a "
    "parameter that the model gives it: make that a part of the model, or use another structure, as "
    "structure=rank-one."
)
EMBEDDING = set(of_names("embedding"))


@dataclass(frozen=True)
class Site:
    """An operation whose output was perturbed in this pass.

    Attributes:
        number: the operation's place among the layers' operations of a pass.
        function: torch's function.
        arguments, options: its positional and named arguments, without tangents.
        noise: [k, *output].
        layout: which dimension of the output counts samples; None where all share one derivative.
        shared: whether it is the same for every sample.
    """

    number: int
    function: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    noise: Tensor
    layout: Layout | None
    shared: bool = False

    def weighted(self, weights: Tensor) -> Tensor:
        """Σ_k weights · noise, [*output]; weights: [k, B] or [k, 1]."""
        spread = (self.layout or Layout()).spread(weights.to(self.noise.dtype), self.noise.shape[1:])
        return self.noise[0] * spread[0] if len(spread) == 1 else (spread * self.noise).sum(0)

    def gram(self, samples: int) -> Tensor:
        """Inner products of the k in float64, of each sample's own [B, k, k]; else of all or one, [1, k, k].

        Args:
            samples: B, 1 where all of them are taken as one.
        """
        if self.layout is None or samples == 1:
            rows = self.noise.flatten(1).unsqueeze(0).double()
        else:
            parted = self.layout.by_sample(self.noise, samples, 1)
            rows = (parted[:, :1] if self.shared else parted).flatten(2).transpose(0, 1).double()
        return rows @ rows.mT

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
        met: for each layer's operation in order, the id of its first trained parameter.
        layouts: where samples are in each operation that can be perturbed, by number; None if all can be.
        wanted: the numbers of the operations to perturb in this pass; None for all that can be.
        shared: whether samples have the same noise.
    """

    noisy = True

    def __init__(
        self,
        count: int,
        noise: Callable[[int, Tensor], Tensor],
        tangents: Mapping[int, Tangent],
        layouts: Mapping[int, Layout] | None = None,
        wanted: Collection[int] | None = None,
        shared: bool = False,
        order: Sequence[int] | None = None,
    ) -> None:
        """Begin a pass.

        Args:
            count: k.
            noise: gives the noise, [k, *output], for an operation's number and its output.
            tangents: by id, those of parameters that belong to no layer.
            layouts, wanted: as of the attributes.
            shared: whether the noise is the same for every sample.
            order: what `met` was in another pass, where numbers have to mean the same operations in this one.
        """
        super().__init__(count, tangents)
        self.layouts, self.wanted, self.shared, self.order = layouts, wanted, shared, order
        self.noise = noise
        self.met: list[int] = []
        self.sites: list[Site] = []
        self.free: set[int] = set()

    def again(self) -> ActivityContext:
        """A fresh context with the same perturbation, for another pass."""
        same = self.layouts, self.wanted, self.shared, self.order
        return ActivityContext(self.count, self.noise, self.tangents, *same)

    def at(self, function: Any, arguments: Any, options: Any) -> Callable[..., Any] | None:
        """What runs in the place of a function whose output is perturbed; None for any other.

        Raises:
            NotImplementedError: another operation has this number in the pass that `order` tells of.
        """
        given = list(_parameters((*arguments, *options.values())))
        if function in LAYERS:
            owner = next((id(p) for p in given if p.requires_grad), None)
            if owner is None:
                return None
            number = len(self.met)
            self.met.append(owner)
            if self.order is not None and self.order[number : number + 1] != [owner]:
                within = number < len(self.order) or owner in self.order
                raise NotImplementedError(OTHER_LAYERS if within else IN_LOSS)
            if self.layouts is None or number in self.layouts:
                if self.wanted is None or number in self.wanted:
                    return _perturbed(function, number)
                # A parameter that has tangents in another function has none in a layer's operation.
                return _standing(function) if any(id(p) in self.tangents for p in given) else None
        self.free.update(id(p) for p in given if p.requires_grad)
        return None


def _parameters(arguments: Iterable[Any]) -> Iterator[nn.Parameter]:
    """The parameters among arguments, also in lists, as those of a recurrent layer or of `torch.stack`."""
    for leaf in arguments:
        if isinstance(leaf, nn.Parameter):
            yield leaf
        elif isinstance(leaf, tuple | list):
            yield from _parameters(leaf)


@cache
def _perturbed(function: Any, number: int) -> Callable[..., Any]:
    """A layer's operation with noise added to its output; its parameters have no tangents."""
    rule = read_all().get(function)

    def perturbed(context: ActivityContext, *arguments: Any, **options: Any) -> Dual:
        arguments, options = _placed(arguments, options)
        output = _still_layer(context, function, rule, arguments, options)
        value = primal_of(output)
        noise, shared = context.noise(number, value), context.shared
        padding = _padding(arguments, options) if function in EMBEDDING else None
        if padding is not None:  # what is not learned is not moved
            noise, shared = noise * padding if shared else noise.mul_(padding), False
        site = Site(
            number,
            function,
            tuple(map_duals(_alone, arguments)),
            dict(map_duals(_alone, options)),
            noise,
            None if context.layouts is None else context.layouts[number],
            shared,
        )
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


def _alone(dual: Dual) -> Tensor:
    """The value in memory of its own, so that what is kept of it does not keep the tangents."""
    return dual.primal.clone()


@cache
def _standing(function: Any) -> Callable[..., Any]:
    """A layer's operation without noise, whose parameters have no tangents."""
    rule = read_all().get(function)

    def standing(context: Context, *arguments: Any, **options: Any) -> Any:
        arguments, options = _placed(arguments, options)
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


def _placed(arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments, with the input in the first place also where it was given by name."""
    if arguments:
        return arguments, options
    return (options["input"],), {name: given for name, given in options.items() if name != "input"}


def _padding(arguments: tuple[Any, ...], options: dict[str, Any]) -> Tensor | None:
    """Of an embedding, False where the row is not learned; None where all are."""
    padding = options.get("padding_idx", arguments[2] if len(arguments) > 2 else None)
    if padding is None:
        return None
    index, weight = map(primal_of, arguments[:2])
    return (index != padding % len(weight)).unsqueeze(-1)  # type: ignore[no-any-return]
