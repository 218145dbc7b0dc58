"""Statistics: 95 % confidence intervals, and none where there are too few samples for one.

Every ratio is handled by its logarithm. Within one process: the median of the rounds, with the
exact order-statistic interval of the sign test. Over processes: the mean of the processes' medians,
with a t-interval, because one process is one sample. Over seeds: the jackknife.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

CONFIDENCE = 0.95
NORMAL = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
POWER = 0.8  # of finding what is said to be findable


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; `low` and `high` are NaN where too little was measured for one."""

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
    return float(special.stdtrit(degrees, (1 + confidence) / 2))


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


@dataclass(frozen=True)
class Runs:
    """Runs of one method to one target, a seed each.

    Attributes:
        spent: seconds or iterations of each, until it was seen to have reached the target or ended without.
        reached: whether it did.
        earliest: what it can have reached the target at, at the earliest: after the evaluation before the
            one that showed it. As `spent` where the run did not reach it, and altogether where None.
    """

    spent: Sequence[float]
    reached: Sequence[bool]
    earliest: Sequence[float] | None = None

    def without(self, i: int) -> Runs:
        """The same runs without the i-th."""
        return Runs([*self.spent[:i], *self.spent[i + 1 :]], [*self.reached[:i], *self.reached[i + 1 :]])

    @property
    def log_ert(self) -> float:
        """Logarithm of the expected running time."""
        return _log(expected_running_time(self.spent, self.reached))

    @property
    def log_earliest(self) -> float:
        """The logarithm of the expected running time if every target was reached at its earliest."""
        return _log(expected_running_time(self._earliest, self.reached))

    @property
    def grid_error(self) -> float:
        """Standard error of `log_ert` if times are anywhere between earliest and seen alike.

        Seeds that one evaluation shows together have no spread of their own, and are not known any better.
        """
        pairs = list(zip(self._earliest, self.spent, strict=True))
        gaps = [seen - early for early, seen in pairs]
        return math.hypot(*gaps) / math.sqrt(12) / (sum(map(sum, pairs)) / 2) if any(gaps) else 0.0

    @property
    def _earliest(self) -> Sequence[float]:
        return self.spent if self.earliest is None else self.earliest


def ert_interval(runs: Runs) -> Estimate:
    """Expected running time with a jackknife t-interval over seeds, on the logarithm.

    A time is known to the evaluations around it: the interval goes from below the earliest times to above
    those seen.
    """
    reach = math.hypot(_jackknife_reach(runs.log_ert, _each_left_out(runs)), NORMAL * runs.grid_error)
    return Estimate(runs.log_ert, runs.log_earliest - reach, runs.log_ert + reach).exponentiated()


def ert_ratio_interval(runs: Runs, reference: Runs) -> Estimate:
    """The ratio of two expected running times, runs paired by seed, with a jackknife t-interval.

    The i-th run of both has the same seed, so that what a seed does to both cancels. The interval goes from
    below the earliest times over the reference's as seen to above the other way round.
    """
    ratio = runs.log_ert - reference.log_ert
    pairs = zip(_each_left_out(runs), _each_left_out(reference), strict=True)
    grid = math.hypot(runs.grid_error, reference.grid_error)
    reach = math.hypot(_jackknife_reach(ratio, [own - other for own, other in pairs]), NORMAL * grid)
    least, most = runs.log_earliest - reference.log_ert, runs.log_ert - reference.log_earliest
    return Estimate(ratio, least - reach, most + reach).exponentiated()


def survival(spent: Sequence[float], reached: Sequence[bool]) -> tuple[list[float], list[float]]:
    """The share of runs that have not reached the target yet, by Kaplan and Meier (1958).

    A run that ended at its budget is counted until then. One that can never reach the target, because it
    diverged, is counted for ever.

    Args:
        spent: until each run reached the target or ended without; infinite for one that never will.
        reached: whether it did.

    Returns:
        Where the share falls or a run ended, ascending, and what it is there.
    """
    both = list(zip(spent, reached, strict=True))
    after_all = 1 + max((s for s in spent if math.isfinite(s)), default=0)
    sample = stats.CensoredData(
        uncensored=[s for s, hit in both if hit], right=[min(s, after_all) for s, hit in both if not hit]
    )
    left = stats.ecdf(sample).sf
    known = left.quantiles < after_all
    return [float(q) for q in left.quantiles[known]], [float(p) for p in left.probabilities[known]]


def median_time(spent: Sequence[float], reached: Sequence[bool]) -> float:
    """When half of the runs have reached the target, by `survival`; infinite where fewer do."""
    return next((at for at, left in zip(*survival(spent, reached), strict=True) if left <= 0.5), math.inf)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _each_left_out(runs: Runs) -> list[float]:
    return [runs.without(i).log_ert for i in range(len(runs.spent))]


def _jackknife_reach(whole: float, left_out: Sequence[float]) -> float:
    """How far the t-interval of a statistic reaches, from its values without each one; NaN without one."""
    n = len(left_out)
    if n < 2 or not np.all(np.isfinite([whole, *left_out])):
        return math.nan  # one seed decides whether it is finite: no interval can be given
    return t_quantile(n - 1) * math.sqrt((n - 1) * float(np.var(left_out)))


def power(shift: float, degrees: float) -> float:
    """How often a t-interval lies above 0 where the truth is `shift` standard errors, by the noncentral t."""
    return 1 - float(special.nctdtr(degrees, shift, t_quantile(degrees)))


def detectable(error: float, degrees: float, wanted: float = POWER) -> float:
    """The smallest difference that a t-interval leaves 0 out of with the wanted power.

    Args:
        error: standard error of the mean, as `degrees` of freedom estimate it.
        degrees: of freedom, at least 1.
        wanted: chance of finding it.
    """
    most = 10 * t_quantile(degrees)
    return float(optimize.brentq(lambda shift: power(shift, degrees) - wanted, 0, most)) * error
