"""Operations in place, by the rules of those that are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual
from fgbench.pushforward.rules import RULES, activations, arithmetic, indexing, of_names, rule
from fgbench.pushforward.rules.activations import into

READ = (activations, arithmetic, indexing)  # the rules below are theirs
NAMES = """
    add sub mul div neg pow addcmul addmm baddbmm exp exp2 expm1 log log1p sqrt rsqrt reciprocal square sin
    cos tan atan abs erf tanh sigmoid clamp clip clamp_min clamp_max threshold hardtanh elu celu selu
    leaky_relu scatter scatter_add index_add
"""


def in_place(found: Callable[..., Dual]) -> Callable[..., Dual]:
    """The rule of the operation in place: where there was nothing moving before, the result stands for it."""

    def placed(context: Context, x: Any, *rest: Any, **options: Any) -> Dual:
        out = found(context, x, *rest, **options)
        return into(x, out) if isinstance(x, Dual) else out

    return placed


for _name in NAMES.split():
    rule(f"{_name}_", f"__i{_name}__")(in_place(next(RULES[f] for f in of_names(_name) if f in RULES)))
