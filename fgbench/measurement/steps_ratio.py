"""Predict how many steps a method needs from the length and direction of its gradient estimates alone.

The prediction is a product of powers of means over few draws, so that it is handled by its logarithm. The
logarithm of a mean whose relative error is s is too small by about s²/2, and its own error is larger than s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fgbench.measurement.statistics import Estimate, t_quantile


@dataclass(frozen=True)
class Mean:
    """A mean over draws and its standard error, which is NaN for a single draw; both NaN without a mean."""

    value: float
    error: float = math.nan


@dataclass(frozen=True)
class Log:
    """An estimate of a figure's logarithm; NaN without one.

    Attributes:
        variance: of the estimate; NaN where it is not known.
        scatter: the sum over independent terms of their variance², each over its degrees of freedom.
    """

    value: float
    variance: float = math.nan
    scatter: float = math.nan

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the variance, by Welch and Satterthwaite."""
        return self.variance**2 / self.scatter if self.scatter else math.inf

    def estimate(self) -> Estimate:
        """The figure with a t-interval on its logarithm."""
        reach = t_quantile(self.degrees) * math.sqrt(self.variance) if self.variance else 0.0
        return Estimate(self.value, self.value - reach, self.value + reach).exponentiated()


ONE = Log(0.0, 0.0, 0.0)


def log_of(mean: Mean, draws: int) -> Log:
    """The logarithm of a mean of draws that may have a long tail, as squared lengths of estimates have.

    Where the draws are gamma distributed, as those of a chi-square are, the square c of the relative error
    has itself a mean of v/(1 + v), where v is the true one, and the logarithm a variance of v + v²/2 to
    second order. The value is corrected by c/2 only: with v in place of c, single draws that are most of a
    mean would make it much less certain.

    Returns:
        NaN where the mean is not positive, as where an estimate goes uphill. There is no variance where the
        error is unknown, or as large as the mean, as where a single draw is all of it.
    """
    if not mean.value > 0:
        return Log(math.nan)
    if math.isnan(mean.error):
        return Log(math.log(mean.value))
    c = (mean.error / mean.value) ** 2
    value = math.log(mean.value) + min(c, 1.0) / 2
    if c >= 1:
        return Log(value)
    true = c / (1 - c)
    variance = true + true**2 / 2
    return Log(value, variance, variance**2 / (draws - 1))


def product(powers: Sequence[tuple[float, Log]]) -> Log:
    """The logarithm of a product of independent figures, each to the power before it."""
    return Log(
        sum(power * log.value for power, log in powers),
        sum(power**2 * log.variance for power, log in powers),
        sum(power**4 * log.scatter for power, log in powers),
    )


def geometric_mean(logs: Sequence[Log]) -> Log:
    """That of independent figures; NaN of none."""
    return product([(1 / len(logs), log) for log in logs]) if logs else Log(math.nan)


@dataclass(frozen=True)
class Worth:
    """The figures of an estimate g that its number of steps depends on; ∇F is the whole loss's gradient.

    Attributes:
        moment: E‖g‖²/‖∇F‖².
        along: E⟨g, ∇F⟩/‖∇F‖².
        unbiased: whether E g = ∇F.
        draws: of how many draws these are the means.
    """

    moment: Mean
    along: Mean
    unbiased: bool
    draws: int


def steps_ratio(method: Worth, reference: Worth) -> Log:
    """Steps of a method over steps of a reference to the same loss, by SGD at the best rate of each.

    A step at rate η lowers a quadratic of curvature L, the same in every direction, by
    η ⟨g, ∇F⟩ − η²L/2 ‖g‖². The mean of this is largest at η = a/(LM), half of the largest stable rate, and is
    then a²/(2LM) ‖∇F‖², with a = E⟨g, ∇F⟩/‖∇F‖² and M = E‖g‖²/‖∇F‖². The number of steps is therefore in
    proportion to M/a². For two unbiased estimates a is 1, and the measured values are not used.

    The ratio is an upper bound where only few directions are curved, as noise in the others costs nothing.

    The figures' errors are taken as independent. Methods are judged on the same batches, on which long
    gradients make the estimates of both long: the error of their ratio is then smaller than given.

    Returns:
        The ratio's logarithm; NaN where a figure is missing, or where estimates were all zero.
    """
    biased = not (method.unbiased and reference.unbiased)
    powers = []
    for sign, worth in ((1.0, method), (-1.0, reference)):
        powers.append((sign, log_of(worth.moment, worth.draws)))
        if biased:
            powers.append((-2 * sign, log_of(worth.along, worth.draws)))
    return product(powers)
