"""Statistics: intervals that hold for what was measured, and none where too little was.

Every ratio is handled by its logarithm. Within one process: the median of the rounds, with the
exact order-statistic interval of the sign test. Over processes: the mean of the processes' medians,
with a t-interval, because one process is one sample. Over seeds: the jackknife.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.8  # of finding what is said to be findable


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; `low` and `high` are NaN where too little was measured for one."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether there was enough to bound it."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def half_width(self) -> float:
        """Half the interval's width as a share of the value; NaN without an interval."""
        return (self.high - self.low) / 2 / self.value

    def exponentiated(self) -> Estimate:
        """The estimate of exp(x) where this one is of x."""
        return Estimate(*(float(np.exp(x)) for x in (self.value, self.low, self.high)))


NOTHING = Estimate(math.nan)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The median with its exact order-statistic interval (the sign test inverted).

    Distribution-free: for independent values of one continuous distribution, whatever its shape,
    the interval covers the median at least as often as `confidence`. It needs 6 values at 95 %.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if n == 0:
        return NOTHING
    middle = float(np.median(ordered))
    # The largest k with P(Binomial(n, 1/2) < k) ≤ α/2: the k-th smallest and largest are the bounds.
    k = int(stats.binom.ppf((1 - confidence) / 2, n, 0.5))
    if stats.binom.cdf(k - 1, n, 0.5) > (1 - confidence) / 2:
        k -= 1
    if k < 1:
        return Estimate(middle)
    return Estimate(middle, float(ordered[k - 1]), float(ordered[n - k]))


def t_quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """How many standard errors Student's two-sided interval reaches to either side."""
    return float(stats.t.ppf((1 + confidence) / 2, degrees))


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean with Student's t-interval; without an interval for a single value."""
    n = len(values)
    if n == 0:
        return NOTHING
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean)
    reach = t_quantile(n - 1, confidence) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - reach, mean + reach)


def difference_interval(
    values: Sequence[float], others: Sequence[float], confidence: float = CONFIDENCE
) -> Estimate:
    """The difference of two means with Welch's t-interval; none where either has but one value."""
    if not (len(values) and len(others)):
        return NOTHING
    difference = float(np.mean(values) - np.mean(others))
    if min(len(values), len(others)) < 2:
        return Estimate(difference)
    found = stats.ttest_ind(values, others, equal_var=False).confidence_interval(confidence)
    return Estimate(difference, float(found.low), float(found.high))


def two_stage_interval(values: Sequence[float], pilot: int, confidence: float = CONFIDENCE) -> Estimate:
    """The mean with Stein's interval: the spread of the first `pilot` values, the mean of all.

    Stein (1945): where the number of values is decided from the pilot's spread alone, this interval
    keeps its coverage exactly, though sampling went on until it was narrow enough; a plain t-interval
    on all values would not.
    """
    if len(values) <= pilot or pilot < 2:
        return mean_interval(values, confidence)
    mean = float(np.mean(values))
    spread = float(np.std(values[:pilot], ddof=1))
    reach = t_quantile(pilot - 1, confidence) * spread / math.sqrt(len(values))
    return Estimate(mean, mean - reach, mean + reach)


def two_stage_size(pilot: Sequence[float], half_width: float, confidence: float = CONFIDENCE) -> int:
    """How many values in all Stein's interval needs for this half-width, by the pilot's spread."""
    spread = float(np.std(pilot, ddof=1))
    quantile = t_quantile(len(pilot) - 1, confidence)
    return max(len(pilot), math.ceil((quantile * spread / half_width) ** 2))


def expected_running_time(spent: Sequence[float], reached: Sequence[bool]) -> float:
    """All that was spent over the number of successes (COCO's ERT); infinite without a success.

    Args:
        spent: seconds or iterations of each run, until it reached the target or ended without.
        reached: whether it did.
    """
    successes = sum(reached)
    return sum(spent) / successes if successes else math.inf


def ert_interval(spent: Sequence[float], reached: Sequence[bool]) -> Estimate:
    """Expected running time with a jackknife t-interval over seeds, on the logarithm."""
    return _jackknife(
        len(spent), lambda keep: _log_ert([spent[i] for i in keep], [reached[i] for i in keep])
    ).exponentiated()


def ert_ratio_interval(
    spent: Sequence[float],
    reached: Sequence[bool],
    reference_spent: Sequence[float],
    reference_reached: Sequence[bool],
) -> Estimate:
    """The ratio of two expected running times, runs paired by seed, with a jackknife t-interval.

    The i-th run of both has the same seed, so that what a seed does to both cancels.
    """
    return _jackknife(
        len(spent),
        lambda keep: (
            _log_ert([spent[i] for i in keep], [reached[i] for i in keep])
            - _log_ert([reference_spent[i] for i in keep], [reference_reached[i] for i in keep])
        ),
    ).exponentiated()


def survival(spent: Sequence[float], reached: Sequence[bool]) -> tuple[list[float], list[float]]:
    """The share of runs that have not reached the target yet, by Kaplan and Meier (1958).

    Returns:
        Where it falls, ascending, and what it falls to there.
    """
    sample = stats.CensoredData(
        uncensored=[s for s, hit in zip(spent, reached, strict=True) if hit],
        right=[s for s, hit in zip(spent, reached, strict=True) if not hit],
    )
    left = stats.ecdf(sample).sf
    return [float(q) for q in left.quantiles], [float(p) for p in left.probabilities]


def median_time(spent: Sequence[float], reached: Sequence[bool]) -> float:
    """When half of the runs have reached the target, by Kaplan and Meier; infinite where fewer do."""
    return next((at for at, left in zip(*survival(spent, reached), strict=True) if left <= 0.5), math.inf)


def _log_ert(spent: Sequence[float], reached: Sequence[bool]) -> float:
    ert = expected_running_time(spent, reached)
    return math.log(ert) if ert > 0 else -math.inf


def _jackknife(n: int, statistic: Callable[[Sequence[int]], float]) -> Estimate:
    whole = statistic(range(n))
    if n < 2:
        return Estimate(whole)
    left_out = [statistic([j for j in range(n) if j != i]) for i in range(n)]
    if not np.all(np.isfinite([whole, *left_out])):
        return Estimate(whole)  # one seed decides whether it is finite: no interval can be given
    error = math.sqrt((n - 1) * float(np.var(left_out)))
    reach = t_quantile(n - 1) * error
    return Estimate(whole, whole - reach, whole + reach)


def power(shift: float, degrees: float) -> float:
    """How often a t-interval lies above 0 where the truth is `shift` standard errors, by the noncentral t."""
    return float(stats.nct.sf(t_quantile(degrees), degrees, shift))


def detectable(error: float, degrees: float, wanted: float = POWER) -> float:
    """The smallest difference that a t-interval leaves 0 out of with the wanted power.

    Args:
        error: standard error of the mean, as `degrees` of freedom estimate it.
        degrees: of freedom, at least 1.
        wanted: chance of finding it.
    """
    most = 10 * t_quantile(degrees)
    return float(optimize.brentq(lambda shift: power(shift, degrees) - wanted, 0, most)) * error
