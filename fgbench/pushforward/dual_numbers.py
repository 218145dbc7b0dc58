"""Models that cannot be traced: PyTorch's dual numbers, with the rules of linear layers in force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.fx.node import map_aggregate
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fgbench.pushforward.context import Context, buffers_kept, draws_again, moves
from fgbench.pushforward.dual import Dual
from fgbench.pushforward.rules import NoRuleError, by_position, rule_of_function, takes

WITH_RULES = (F.linear, F.conv1d, F.conv2d, F.conv3d, F.embedding)


def by_dual_numbers(
    model: nn.Module, loss: Callable[..., Tensor], batch: tuple[Tensor, Tensor], contexts: list[Context]
) -> tuple[Tensor, Tensor]:
    """The loss [] and its derivative along each tangent [k]; one pass a context, of one tangent each.

    Every pass begins with the same random numbers and buffers; the last alone moves both on.
    """
    values, derivatives = [], []
    for context in contexts:
        again = context is not contexts[-1]
        with (
            draws_again(batch[0].device, again),
            buffers_kept(model, again),
            sdpa_kernel(SDPBackend.MATH),
            forward_ad.dual_level(),
            torch.enable_grad(),  # so that the model's own `no_grad` is seen
            _Rules(context),
        ):
            value, tangent = forward_ad.unpack_dual(loss(model(batch[0]), batch[1]))
            values.append(value.clone())
            derivatives.append(torch.zeros_like(value) if tangent is None else tangent.clone())
    return values[0], torch.stack(derivatives)


class _Rules(TorchFunctionMode):
    """Gives parameters their tangents, and linear layers and convolutions our rules."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        self.duals: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled():
            return func(*map_aggregate(args, _still), **map_aggregate(kwargs, _still))
        if func in WITH_RULES:
            try:
                return self._by_rule(func, args, kwargs)
            except NoRuleError:
                pass
        args, kwargs = map_aggregate((args, kwargs), self._dual)
        return func(*args, **kwargs)

    def _by_rule(self, function: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        arguments, options = by_position(*map_aggregate((arguments, options), _as_dual))
        rule = rule_of_function(function)
        if rule is None or not takes(rule, self.context, *arguments, **options):
            raise NoRuleError("not these arguments")
        if not any(moves(a, self.context) for a in (*arguments, *options.values())):
            raise NoRuleError("nothing moves")
        if function is not F.embedding and any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):
            raise NoRuleError("tangents of another dtype than the product")
        with torch.no_grad():
            out = rule(self.context, *arguments, **options)
        return forward_ad.make_dual(out.primal, out.tangents[0])

    def _dual(self, leaf: Any) -> Any:
        """A parameter with its tangent; reverse mode records none of them."""
        tangent = self.context.tangent(leaf)
        if tangent is None:
            return leaf.detach() if isinstance(leaf, nn.Parameter) else leaf
        if id(leaf) not in self.duals:
            self.duals[id(leaf)] = forward_ad.make_dual(leaf.detach(), tangent.full()[0])
        return self.duals[id(leaf)]


def _still(leaf: Any) -> Any:
    """A dual tensor without its tangent, the same memory."""
    return forward_ad.unpack_dual(leaf).primal if isinstance(leaf, Tensor) else leaf


def _as_dual(leaf: Any) -> Any:
    """A dual tensor as our `Dual`."""
    if not isinstance(leaf, Tensor) or isinstance(leaf, nn.Parameter):
        return leaf
    primal, tangent = forward_ad.unpack_dual(leaf)
    return primal if tangent is None else Dual(torch.stack([primal, tangent]))
