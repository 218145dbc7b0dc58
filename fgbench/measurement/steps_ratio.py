"""How many steps an estimate of the gradient needs, by its length and its direction alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """A mean over draws and its standard error; NaN where there is none, the error with a single draw."""

    value: float
    error: float = math.nan

    @property
    def share(self) -> float:
        """The error as a share of the mean; 0 where there is none."""
        return 0.0 if math.isnan(self.error) else self.error / abs(self.value)


def mean_of(means: Sequence[Mean]) -> Mean:
    """The mean of independent means."""
    count = len(means)
    if not count:
        return Mean(math.nan)
    squares = sum(0.0 if math.isnan(m.error) else m.error**2 for m in means)
    return Mean(sum(m.value for m in means) / count, math.sqrt(squares) / count)


@dataclass(frozen=True)
class Worth:
    """What counts of an estimate g, ∇F being the gradient of the whole loss.

    Attributes:
        moment: E‖g‖²/‖∇F‖².
        along: E⟨g, ∇F⟩/‖∇F‖².
        unbiased: whether the mean of g is the gradient.
    """

    moment: Mean
    along: Mean
    unbiased: bool


def steps_ratio(method: Worth, reference: Worth) -> Mean:
    """Steps of a method over those of a reference to the same loss, by SGD at the best rate of each.

    A step at rate η lowers a quadratic of curvature L, the same in every direction, by
    η ⟨g, ∇F⟩ − η²L/2 ‖g‖². Its mean is largest at η = a/(LM), half of the largest stable rate, and is then
    a²/(2LM) ‖∇F‖², with a = E⟨g, ∇F⟩/‖∇F‖² and M = E‖g‖²/‖∇F‖². Steps are in proportion to M/a². Of two
    unbiased estimates a is equal, whatever the draws say.

    Where few directions are curved the noise in the others costs nothing: then it is an upper bound.

    Returns:
        The ratio, and its error to first order; NaN where a figure is missing.
    """
    ratio = method.moment.value / reference.moment.value
    shares = [method.moment.share, reference.moment.share]
    if not (method.unbiased and reference.unbiased):
        ratio *= (reference.along.value / method.along.value) ** 2
        shares += [2 * method.along.share, 2 * reference.along.share]
    return Mean(ratio, ratio * math.sqrt(sum(share**2 for share in shares)))
