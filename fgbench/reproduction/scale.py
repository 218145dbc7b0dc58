"""At what size a paper's experiments are run."""

from __future__ import annotations

from enum import StrEnum


class Scale(StrEnum):
    """The scales, smallest first: they are compared by their place in `SCALES`."""

    SMOKE = "smoke"  # proof that each experiment runs; it decides no claim
    LAPTOP = "laptop"  # results on a CPU
    PAPER = "paper"  # the paper's protocol where a CPU can follow in hours; elsewhere as laptop
    FULL = "full"  # the paper's own size


SMOKE, LAPTOP, PAPER, FULL = (scale.value for scale in Scale)
SCALES = tuple(scale.value for scale in Scale)


def larger(one: str, other: str) -> str:
    """The larger of two scales."""
    return max(one, other, key=SCALES.index)
