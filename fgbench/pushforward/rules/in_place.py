"""Rules of operations in place, made from the rules of the same operations out of place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual
from fgbench.pushforward.rules import RULES, activations, arithmetic, indexing, of_names, rule
from fgbench.pushforward.rules.activations import into

READ = (activations, arithmetic, indexing)  # importing these registers the rules used below
NAMES = """
    add sub mul div neg pow addcmul addmm baddbmm exp exp2 expm1 log log1p sqrt rsqrt reciprocal square sin
    cos tan atan abs erf tanh sigmoid clamp clip clamp_min clamp_max threshold hardtanh elu celu selu
    leaky_relu scatter scatter_add index_add
"""


def in_place(found: Callable[..., Dual]) -> Callable[..., Dual]:
    """The rule in place: it overwrites x, or if x had no tangents, gives a new result in its stead."""

    def placed(context: Context, x: Any, *rest: Any, **options: Any) -> Dual:
        out = found(context, x, *rest, **options)
        return into(x, out) if isinstance(x, Dual) else out

    return placed


for _name in NAMES.split():
    rule(f"{_name}_", f"__i{_name}__")(in_place(next(RULES[f] for f in of_names(_name) if f in RULES)))
