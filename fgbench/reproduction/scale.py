"""At what size a paper's experiments are run."""

from __future__ import annotations

from enum import StrEnum


class Scale(StrEnum):
    """From the smallest on, so that they can be compared by their place in `SCALES`."""

    SMOKE = "smoke"  # proof that each experiment runs; it decides no claim
    LAPTOP = "laptop"  # results on a CPU
    FULL = "full"  # the paper's own size


SMOKE = Scale.SMOKE.value
SCALES = tuple(scale.value for scale in Scale)
