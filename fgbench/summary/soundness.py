"""Whether a measured ratio can be trusted, judged by its A/A repeat and the GPU's state."""

from __future__ import annotations

import math

import pandas as pd

from fgbench.measurement.statistics import Estimate

AA_SHARE = 0.25  # of the difference claimed, by which the A/A interval may leave out 1
THROTTLED_SHARE = 0.05  # of blocks


def aa_off(aa: Estimate) -> float:
    """How far 1 lies outside the A/A interval, as a difference of logarithms; 0 where it lies inside."""
    low, high = (aa.low, aa.high) if aa.has_interval else (aa.value, aa.value)
    return 0.0 if math.isnan(aa.value) else max(math.log(low), -math.log(high), 0.0)


def aa_fault(aa: Estimate, ratio: Estimate) -> str:
    """What the A/A repeat holds against a ratio: a clause about the reference, empty where nothing.

    A ratio whose interval leaves out 1 claims the difference of its logarithm, any other that there is none
    beyond its interval. The repeat's interval may leave out 1 by a quarter of that; to bear out a difference
    it has to be narrower than it.
    """
    if not ratio.has_interval:
        return ""  # it claims nothing
    differs = ratio.low > 1 or ratio.high < 1
    ends = (ratio.value,) if differs else (ratio.low, ratio.high)
    claimed = max(abs(math.log(end)) for end in ends)
    if aa_off(aa) > AA_SHARE * claimed:
        return "differs from itself"
    if differs and aa.has_interval and math.log(aa.high / aa.low) / 2 > claimed:
        return "is not known to be equal to itself as closely as that"
    return ""


def throttled_share(samples: pd.DataFrame) -> float:
    """The share of blocks in which the GPU was throttled; 0 where nothing was read from the GPU.

    In a file a block without throttling has an empty cell, as one without a gauge: its clock tells them
    apart.
    """
    throttled = samples["throttle"].fillna("") != ""
    told = throttled | samples["throttle"].notna() | samples["sm_clock_mhz"].notna()
    return float(throttled.sum() / told.sum()) if told.any() else 0.0
