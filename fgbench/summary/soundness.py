"""Whether a measured ratio can be trusted, judged by its A/A repeat and the GPU's state."""

from __future__ import annotations

import math

import pandas as pd

from fgbench.measurement.statistics import Estimate

AA_SHARE = 0.25  # the A/A interval may miss 1 by this share of the difference that is claimed
THROTTLED_SHARE = 0.05  # more throttled blocks than this share are worth a warning


def aa_off(aa: Estimate) -> float:
    """How far 1 is outside the A/A interval, as a difference of logarithms; 0 where it is inside."""
    low, high = (aa.low, aa.high) if aa.has_interval else (aa.value, aa.value)
    return 0.0 if math.isnan(aa.value) else max(math.log(low), -math.log(high), 0.0)


def aa_fault(aa: Estimate, ratio: Estimate) -> str:
    """What the A/A repeat says against a ratio, as a clause about the reference; empty where nothing.

    A ratio whose interval excludes 1 claims a difference as large as its logarithm; any other ratio claims
    that there is no difference beyond its interval. The repeat's interval may miss 1 by a quarter of what is
    claimed. To support a difference it also has to be narrower than the difference.
    """
    if not ratio.has_interval:
        return ""  # without an interval nothing is claimed
    differs = ratio.low > 1 or ratio.high < 1
    ends = (ratio.value,) if differs else (ratio.low, ratio.high)
    claimed = max(abs(math.log(end)) for end in ends)
    if aa_off(aa) > AA_SHARE * claimed:
        return "differs from itself"
    if differs and aa.has_interval and math.log(aa.high / aa.low) / 2 > claimed:
        return "against itself is measured too imprecisely for that"
    return ""


def throttled_share(samples: pd.DataFrame) -> float:
    """The share of blocks in which the GPU was throttled; 0 where nothing was read from the GPU.

    In samples.csv the cell `throttle` is empty both for a block without throttling and for one without a
    gauge; whether there is a clock frequency tells them apart.
    """
    throttled = samples["throttle"].fillna("") != ""
    told = throttled | samples["throttle"].notna() | samples["sm_clock_mhz"].notna()
    return float(throttled.sum() / told.sum()) if told.any() else 0.0
