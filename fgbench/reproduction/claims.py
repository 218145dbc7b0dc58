"""Claims against figures: reproduced, not reproduced, or not comparable and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from fgbench.measurement.statistics import NOTHING, Estimate
from fgbench.reproduction.scale import SCALES, SMOKE
from fgbench.reproduction.suite import Claim


class Verdict(Enum):
    """What may be said of a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class Outcome:
    """A claim, what was measured for it, and the verdict.

    Attributes:
        claim: the paper's.
        measured: NaN where nothing was.
        verdict: of it.
        why: of what is not comparable, and where the measured interval stands.
        against: the other figure, of a claim that compares two.
    """

    claim: Claim
    measured: Estimate
    verdict: Verdict
    why: str
    against: Estimate = NOTHING


def judge(claim: Claim, figures: Mapping[str, Estimate], scale: str) -> Outcome:
    """Hold a claim against what was measured.

    An interval that holds the bound decides nothing. A figure without an interval is taken as exact, as
    memory is, and what a method that draws nothing comes to.
    """
    measured, against = (figures.get(name, NOTHING) for name in (claim.figure, claim.than))

    def outcome(verdict: Verdict, why: str = "") -> Outcome:
        return Outcome(claim, measured, verdict, why, against)

    if scale == SMOKE:
        return outcome(Verdict.NOT_COMPARABLE, "smoke only proves that it runs")
    if claim.test == "none":
        return outcome(Verdict.NOT_COMPARABLE, claim.why)
    if SCALES.index(scale) < SCALES.index(claim.needs):
        return outcome(Verdict.NOT_COMPARABLE, claim.why or f"needs --scale {claim.needs}")
    if math.isnan(measured.value):
        return outcome(Verdict.NOT_COMPARABLE, "nothing was measured for it")
    if math.isinf(measured.value):
        return outcome(Verdict.NOT_REPRODUCED, "no run here got there")
    low, high = _ends(measured)
    if claim.test == "near":
        assert claim.value is not None
        reach = 1 + claim.tolerance
        least, most = sorted((claim.value / reach, claim.value * reach))
        if high < least or low > most:
            return outcome(Verdict.NOT_REPRODUCED, f"beyond {claim.tolerance:.0%} of the paper's")
        if low < least or high > most:
            return outcome(Verdict.NOT_COMPARABLE, "the interval is wider than the tolerance: measure longer")
        return outcome(Verdict.REPRODUCED)
    bound = against if claim.than else Estimate(claim.bound)
    if math.isnan(bound.value):
        return outcome(Verdict.NOT_COMPARABLE, f"nothing was measured for {claim.than}")
    least, most = _ends(bound)
    if claim.test == "above":
        low, high, least, most = -high, -low, -most, -least
    if high < least:
        return outcome(Verdict.REPRODUCED)
    if low > most:
        return outcome(Verdict.NOT_REPRODUCED, "the other way round")
    return outcome(Verdict.NOT_COMPARABLE, "the intervals overlap: measure longer")


def _ends(estimate: Estimate) -> tuple[float, float]:
    return (estimate.low, estimate.high) if estimate.has_interval else (estimate.value, estimate.value)
