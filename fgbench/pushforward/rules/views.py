"""What shows entries in other places, once or several times over, and the parts of complex numbers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual
from fgbench.pushforward.rules import RULES, rule
from fgbench.pushforward.rules.shapes import on_stack, repeat, sizes_of


@rule("tile")
def tile(context: Context, x: Dual, *times: Any, **named: Any) -> Dual:
    """Copies side by side, once along dimensions that are left out."""
    given = sizes_of((*times, *named.values()))
    return repeat(context, x, *[1] * (x.stack.dim() - 1 - len(given)), *given)


@rule("diagonal")
def diagonal(context: Context, x: Dual, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Dual:
    """Of two dimensions."""
    return Dual(x.stack.diagonal(offset, on_stack(dim1, x), on_stack(dim2, x)))


def unfold(context: Context, x: Dual, dimension: int, size: int, step: int) -> Dual:
    """Windows along a dimension."""
    return Dual(x.stack.unfold(on_stack(dimension, x), size, step))


RULES[Tensor.unfold] = unfold


for _part in ("real", "imag"):
    RULES[getattr(Tensor, _part).__get__] = lambda context, x, part=_part: Dual(getattr(x.stack, part))
