"""Predict how many steps a method needs from the length and direction of its gradient estimates alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """A mean over draws and its standard error, which is NaN for a single draw; both NaN without a mean."""

    value: float
    error: float = math.nan

    @property
    def share(self) -> float:
        """The error as a share of the mean; 0 where the error is unknown, NaN where the mean is 0."""
        if math.isnan(self.error):
            return 0.0
        return self.error / abs(self.value) if self.value else math.nan


def mean_of(means: Sequence[Mean]) -> Mean:
    """The mean of independent means."""
    count = len(means)
    if not count:
        return Mean(math.nan)
    squares = sum(0.0 if math.isnan(m.error) else m.error**2 for m in means)
    return Mean(sum(m.value for m in means) / count, math.sqrt(squares) / count)


@dataclass(frozen=True)
class Worth:
    """The figures of an estimate g that its number of steps depends on; ∇F is the whole loss's gradient.

    Attributes:
        moment: E‖g‖²/‖∇F‖².
        along: E⟨g, ∇F⟩/‖∇F‖².
        unbiased: whether E g = ∇F.
    """

    moment: Mean
    along: Mean
    unbiased: bool


def steps_ratio(method: Worth, reference: Worth) -> Mean:
    """Steps of a method over steps of a reference to the same loss, by SGD at the best rate of each.

    A step at rate η lowers a quadratic of curvature L, the same in every direction, by
    η ⟨g, ∇F⟩ − η²L/2 ‖g‖². The mean of this is largest at η = a/(LM), half of the largest stable rate, and is
    then a²/(2LM) ‖∇F‖², with a = E⟨g, ∇F⟩/‖∇F‖² and M = E‖g‖²/‖∇F‖². The number of steps is therefore in
    proportion to M/a². For two unbiased estimates a is 1, and the measured values are not used.

    The ratio is an upper bound where only few directions are curved, as noise in the others costs nothing.

    Returns:
        The ratio, and its error to first order; NaN where a figure is missing, or where estimates were all
        zero.
    """
    if 0.0 in (method.moment.value, method.along.value, reference.moment.value):
        return Mean(math.nan)
    ratio = method.moment.value / reference.moment.value
    shares = [method.moment.share, reference.moment.share]
    if not (method.unbiased and reference.unbiased):
        ratio *= (reference.along.value / method.along.value) ** 2
        shares += [2 * method.along.share, 2 * reference.along.share]
    return Mean(ratio, ratio * math.sqrt(sum(share**2 for share in shares)))
