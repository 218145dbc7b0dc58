"""Statistics: estimates with 95 % confidence intervals, which are left out where samples are too few.

Every ratio is handled by its logarithm. Within one process the estimate is the median of the rounds, with
the exact order-statistic interval of the sign test. Over processes it is the mean of their medians, with a
t-interval, because one process is one sample. Over seeds intervals come from the jackknife.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import scipy  # its modules are imported where they are first used

CONFIDENCE = 0.95
NORMAL = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
POWER = 0.8  # the probability with which a difference called detectable is found


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; `low` and `high` are NaN where samples are too few for one."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether there were enough samples for an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def half_width(self) -> float:
        """Half the interval's width as a share of the value; NaN without an interval."""
        return (self.high - self.low) / 2 / self.value

    def not_below(self, least: float) -> Estimate:
        """The estimate of what is known to be `least` or more: its interval does not reach below that."""
        return replace(self, low=max(self.low, least)) if self.has_interval else self

    def exponentiated(self) -> Estimate:
        """The estimate of exp(x), if this is an estimate of x."""
        with np.errstate(over="ignore"):  # infinite is what it is for all purposes
            return Estimate(*(float(np.exp(x)) for x in (self.value, self.low, self.high)))


NOTHING = Estimate(math.nan)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The median with its exact order-statistic interval (the sign test inverted).

    The interval makes no assumption on the distribution's shape: for independent values of a continuous
    distribution it covers the median with probability `confidence` at least. It needs 6 values at 95 %.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if n == 0:
        return NOTHING
    middle = float(np.median(ordered))
    # The largest k with P(Binomial(n, 1/2) < k) ≤ α/2: the k-th smallest and largest are the bounds.
    k = int(scipy.stats.binom.ppf((1 - confidence) / 2, n, 0.5))
    if scipy.stats.binom.cdf(k - 1, n, 0.5) > (1 - confidence) / 2:
        k -= 1
    if k < 1:
        return Estimate(middle)
    return Estimate(middle, float(ordered[k - 1]), float(ordered[n - k]))


def t_quantile(degrees: float, confidence: float = CONFIDENCE) -> float:
    """How many standard errors Student's two-sided interval extends to either side."""
    return float(scipy.special.stdtrit(degrees, (1 + confidence) / 2))


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
    """The difference of two means with Welch's t-interval; no interval where either has only one value."""
    if not (len(values) and len(others)):
        return NOTHING
    difference = float(np.mean(values) - np.mean(others))
    if min(len(values), len(others)) < 2:
        return Estimate(difference)
    found = scipy.stats.ttest_ind(values, others, equal_var=False).confidence_interval(confidence)
    return Estimate(difference, float(found.low), float(found.high))


def two_stage_interval(values: Sequence[float], pilot: int, confidence: float = CONFIDENCE) -> Estimate:
    """The mean of all values with Stein's interval, which takes the spread of the first `pilot` values.

    Stein (1945): where the number of values is decided from the pilot's spread alone, this interval has
    exactly the stated coverage, although sampling went on until it was narrow enough. A plain t-interval on
    all values has not.
    """
    if len(values) <= pilot or pilot < 2:
        return mean_interval(values, confidence)
    mean = float(np.mean(values))
    spread = float(np.std(values[:pilot], ddof=1))
    reach = t_quantile(pilot - 1, confidence) * spread / math.sqrt(len(values))
    return Estimate(mean, mean - reach, mean + reach)


def two_stage_size(pilot: Sequence[float], half_width: float, confidence: float = CONFIDENCE) -> int:
    """How many values in all Stein's interval needs to have this half-width, by the pilot's spread."""
    spread = float(np.std(pilot, ddof=1))
    quantile = t_quantile(len(pilot) - 1, confidence)
    return max(len(pilot), math.ceil((quantile * spread / half_width) ** 2))


def expected_running_time(spent: Sequence[float], reached: Sequence[bool]) -> float:
    """The sum of what all runs spent over the number of successes (COCO's ERT); infinite without a success.

    Args:
        spent: seconds or iterations of each run, until it reached the target or ended without reaching it.
        reached: whether each run reached it.
    """
    successes = sum(reached)
    return sum(spent) / successes if successes else math.inf


@dataclass(frozen=True)
class Runs:
    """Runs of one method to one target, one for each seed.

    Attributes:
        spent: seconds or iterations of each run, until an evaluation showed that it had reached the target,
            or until it ended.
        reached: whether each run reached it.
        earliest: the earliest at which each run may have reached the target, that is the evaluation before
            the one that showed it; `spent` for a run that did not reach it. None: as `spent` for all.
    """

    spent: Sequence[float]
    reached: Sequence[bool]
    earliest: Sequence[float] | None = None

    def without(self, i: int) -> Runs:
        """The runs without the i-th one."""
        return Runs([*self.spent[:i], *self.spent[i + 1 :]], [*self.reached[:i], *self.reached[i + 1 :]])

    @property
    def log_ert(self) -> float:
        """Logarithm of the expected running time."""
        return _log(expected_running_time(self.spent, self.reached))

    @property
    def log_earliest(self) -> float:
        """Logarithm of the expected running time if every run reached the target at its earliest."""
        return _log(expected_running_time(self._earliest, self.reached))

    @property
    def grid_error(self) -> float:
        """Standard error of `log_ert` from the spacing of evaluations.

        Each time is taken as uniform between its earliest and the evaluation that showed it. Without this,
        seeds that the same evaluation shows would seem to have no spread at all.
        """
        pairs = list(zip(self._earliest, self.spent, strict=True))
        gaps = [seen - early for early, seen in pairs]
        return math.hypot(*gaps) / math.sqrt(12) / (sum(map(sum, pairs)) / 2) if any(gaps) else 0.0

    @property
    def _earliest(self) -> Sequence[float]:
        return self.spent if self.earliest is None else self.earliest


def ert_interval(runs: Runs) -> Estimate:
    """Expected running time with a jackknife t-interval over seeds, on the logarithm.

    A time is known only to lie between two evaluations: the lower end starts from the earliest times, the
    upper end from those of the evaluations that showed the target reached.

    Where all runs reached the target, the interval takes it that all seeds would: of a method of which one
    seed in ten does not, it holds the expected running time in 6 of 10 such cases with 5 seeds (simulated).
    """
    reach = math.hypot(_jackknife_reach(runs.log_ert, _each_left_out(runs)), NORMAL * runs.grid_error)
    return Estimate(runs.log_ert, runs.log_earliest - reach, runs.log_ert + reach).exponentiated()


def ert_ratio_interval(runs: Runs, reference: Runs) -> Estimate:
    """The ratio of two expected running times, runs paired by seed, with a jackknife t-interval.

    The i-th run of both has the same seed, so that a seed's effect on both cancels. The lower end starts from
    the earliest times over the reference's observed ones, the upper end from the observed times over the
    reference's earliest.
    """
    ratio = runs.log_ert - reference.log_ert
    pairs = zip(_each_left_out(runs), _each_left_out(reference), strict=True)
    grid = math.hypot(runs.grid_error, reference.grid_error)
    reach = math.hypot(_jackknife_reach(ratio, [own - other for own, other in pairs]), NORMAL * grid)
    least, most = runs.log_earliest - reference.log_ert, runs.log_ert - reference.log_earliest
    return Estimate(ratio, least - reach, most + reach).exponentiated()


def survival(spent: Sequence[float], reached: Sequence[bool]) -> tuple[list[float], list[float]]:
    """The share of runs that have not reached the target yet, by Kaplan and Meier (1958).

    A run that ended at its budget counts until then. A run that can never reach the target, because it
    diverged, counts for ever.

    Args:
        spent: what each run spent until it reached the target or ended; infinite if it can never reach it.
        reached: whether each run reached it.

    Returns:
        The points where the share falls or a run ended, ascending, and the share at each.
    """
    both = list(zip(spent, reached, strict=True))
    after_all = 1 + max((s for s in spent if math.isfinite(s)), default=0)
    sample = scipy.stats.CensoredData(
        uncensored=[s for s, hit in both if hit], right=[min(s, after_all) for s, hit in both if not hit]
    )
    left = scipy.stats.ecdf(sample).sf
    known = left.quantiles < after_all
    return [float(q) for q in left.quantiles[known]], [float(p) for p in left.probabilities[known]]


def median_time(spent: Sequence[float], reached: Sequence[bool]) -> float:
    """When half of the runs have reached the target, by `survival`; infinite where fewer than half do."""
    return next((at for at, left in zip(*survival(spent, reached), strict=True) if left <= 0.5), math.inf)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _each_left_out(runs: Runs) -> list[float]:
    return [runs.without(i).log_ert for i in range(len(runs.spent))]


def _jackknife_reach(whole: float, left_out: Sequence[float]) -> float:
    """Half-width of a statistic's t-interval, from its values with each run left out; NaN without one."""
    n = len(left_out)
    if n < 2 or not np.all(np.isfinite([whole, *left_out])):
        return math.nan  # a single seed decides whether the statistic is finite
    return t_quantile(n - 1) * math.sqrt((n - 1) * float(np.var(left_out)))


def power(shift: float, degrees: float) -> float:
    """The probability that a t-interval is above 0 if the truth is `shift` standard errors (noncentral t)."""
    return 1 - float(scipy.special.nctdtr(degrees, shift, t_quantile(degrees)))


def detectable(error: float, degrees: float, wanted: float = POWER) -> float:
    """The smallest true difference for which a t-interval excludes 0 with the wanted probability.

    Args:
        error: standard error of the mean.
        degrees: degrees of freedom from which the error was estimated, at least 1.
        wanted: the probability of finding the difference.
    """
    most = 10 * t_quantile(degrees)
    return float(scipy.optimize.brentq(lambda shift: power(shift, degrees) - wanted, 0, most)) * error
