"""Judge a paper's claims by what was measured: reproduced, not reproduced, or not comparable and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from fgbench.measurement.statistics import NOTHING, Estimate, mean_interval
from fgbench.reproduction.scale import SCALES, SMOKE
from fgbench.reproduction.suite import Claim
from fgbench.summary.losses import LEVELS, LOSSES


class Verdict(Enum):
    """The possible outcomes for a claim."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True)
class JudgedClaim:
    """A claim, what was measured for it, and the verdict.

    Attributes:
        claim: what the paper says.
        measured: the figure measured here; NaN where nothing was.
        verdict: the outcome.
        why: the reason for the verdict; empty where the claim is reproduced.
        against: the second figure, for a claim that compares two.
        difference: the first less the second, seed by seed, where both are of runs that are matched by seed.
    """

    claim: Claim
    measured: Estimate
    verdict: Verdict
    why: str
    against: Estimate = NOTHING
    difference: Estimate = NOTHING


BySeed = Mapping[str, Mapping[int, float]]
"""Figures of runs that are matched by seed: by key, and then by seed."""
Said = tuple[Verdict, str]  # a verdict and the reason for it
# Figures of trained jobs that have no interval where a single seed decides them, and what is said then.
ONE_DECIDES = {
    **dict.fromkeys(
        ("t", "t_ratio", "n_ratio"), "a single seed decides it: it takes more seeds that reach the target"
    ),
    **dict.fromkeys(
        ("validation_loss", "lowest_loss", "rise", "validation_accuracy"),
        "no interval says how far seeds differ, and a single one may decide it: it takes more of them",
    ),
}
# Figures whose interval is over seeds; the interval of any other is over what was timed.
OVER_SEEDS = (*ONE_DECIDES, "final", "best")
STILL = 1e-3  # a loss that fell by less than this share of itself has not left its start


def judge(
    claim: Claim, figures: Mapping[str, Estimate], scale: str, takes: str = "", by_seed: BySeed | None = None
) -> JudgedClaim:
    """Judge a claim by what was measured; `takes` is what it would take to measure what it lacks.

    Two figures that are both in `by_seed` are compared by the mean of their differences, seed by seed, with
    its t-interval: runs of a seed share weights and batches, whose effect on both cancels. Any other two are
    compared by their own intervals.

    An interval that contains the claimed bound decides nothing. A time that no run was long enough for has a
    lower end, what the runs lasted, which decides where a value or a bound is below it. A figure without an
    interval is taken as exact; memory is such a figure, and the result of a method that draws no random
    numbers. A time, a loss or an accuracy of trained jobs without one decides nothing.
    """
    measured, against = (figures.get(name, NOTHING) for name in (claim.figure, claim.than))
    difference = _difference(claim, by_seed or {})
    if why := _not_comparable(claim, figures, scale, takes):
        said = (Verdict.NOT_COMPARABLE, why)
    elif _diverged(measured) and claim.test != "above":
        said = (Verdict.NOT_REPRODUCED, "no run here reached it")
    elif _diverged(measured) or (claim.than and _diverged(against)):
        said = (Verdict.NOT_COMPARABLE, "every run here diverged")
    elif claim.test == "near":
        said = _near(claim, measured)
    elif difference is not None:
        said = _seed_by_seed(claim, difference)
    else:
        said = _beyond(claim, measured, against if claim.than else Estimate(claim.bound))
    return JudgedClaim(claim, measured, *said, against, difference or NOTHING)


def out_of_reach(claim: Claim, scale: str) -> bool:
    """Whether only a larger scale than this can decide the claim."""
    return claim.test != "none" and SCALES.index(scale) < SCALES.index(claim.needs)


def lacking(claim: Claim, figures: Mapping[str, Estimate], scale: str) -> str:
    """The figure that the claim lacks: one that only a larger scale gives, or that was not measured."""
    if out_of_reach(claim, scale):
        return claim.figure
    named = [name for name in (claim.figure, claim.than) if name and claim.test != "none"]
    return next((name for name in named if math.isnan(figures.get(name, NOTHING).value)), "")


def _not_comparable(claim: Claim, figures: Mapping[str, Estimate], scale: str, takes: str) -> str:
    """Why the claim cannot be judged, whatever was measured; empty where it can."""
    measured, against = (figures.get(name, NOTHING) for name in (claim.figure, claim.than))
    if scale == SMOKE:
        return "the scale smoke only shows that the experiment runs"
    if claim.test == "none":
        return claim.why
    if out_of_reach(claim, scale):
        return (claim.why or f"needs --scale {claim.needs}") + (takes and f": {takes}")
    if math.isnan(measured.value):
        return _absent("it", claim.figure, figures, takes)
    if claim.than and math.isnan(against.value):
        return _absent(claim.than, claim.than, figures, takes)
    return (
        _of_one_seed(claim.figure, measured)
        or _of_one_seed(claim.than, against)
        or _no_better_than_chance(claim, figures)
        or _stood_still(claim, figures)
    )


def _absent(name: str, figure: str, figures: Mapping[str, Estimate], takes: str) -> str:
    """Why there is no figure: its runs diverged, some or all, so that there is no mean, or there are none."""
    stem, _, last = figure.rpartition("/")
    share = figures.get(f"{stem}/diverged_share", NOTHING).value
    if last in LOSSES and share > 0:
        return f"{share:.0%} of the runs diverged: {name} has no mean over all of them"
    return f"nothing was measured for {name}" + (takes and f": {takes}")


def _no_better_than_chance(claim: Claim, figures: Mapping[str, Estimate]) -> str:
    """Why two losses decide nothing; empty where one is below that of a model that learned nothing."""
    stem, _, last = claim.figure.rpartition("/")
    chance = figures.get(f"{stem}/chance_loss", NOTHING).value
    if not claim.than or last not in LEVELS or math.isnan(chance):
        return ""
    best = min(figures[name].value for name in (claim.figure, claim.than))
    return f"nothing was learned: no loss is below chance, {chance:.3g}" if best >= chance else ""


def _stood_still(claim: Claim, figures: Mapping[str, Estimate]) -> str:
    """Why runs that are compared decide nothing; empty where the losses of all left their start."""
    for figure in filter(None, (claim.figure, claim.than)):
        stem, _, last = figure.rpartition("/")
        fall, lowest = (figures.get(f"{stem}/{name}", NOTHING).value for name in ("fall", "lowest_loss"))
        if last in ONE_DECIDES and fall < STILL * lowest:
            method = stem.rpartition("/")[2]
            return f"in runs as short as these the loss of {method} does not leave its start"
    return ""


def _of_one_seed(figure: str, found: Estimate) -> str:
    """Why a figure that a single seed may decide decides nothing; empty for any other."""
    alone = math.isfinite(found.value) and not found.has_interval
    return ONE_DECIDES.get(figure.rpartition("/")[2], "") if alone else ""


def _diverged(measured: Estimate) -> bool:
    """Whether it is a time that has not even a lower end, as every run diverged."""
    return math.isinf(measured.value) and not measured.has_interval


def _near(claim: Claim, measured: Estimate) -> Said:
    """Whether the whole interval is within the tolerance of the claimed value."""
    assert claim.value is not None
    low, high = _ends(measured)
    reach = 1 + claim.tolerance
    least, most = sorted((claim.value / reach, claim.value * reach))
    if high < least or low > most:
        whose = "the paper's" if claim.of_the_paper else "the computed value"
        return Verdict.NOT_REPRODUCED, f"beyond {100 * claim.tolerance:g}% of {whose}"
    if low < least or high > most:
        return Verdict.NOT_COMPARABLE, f"the interval reaches beyond the tolerance: {_more(claim, measured)}"
    return Verdict.REPRODUCED, ""


def _beyond(claim: Claim, measured: Estimate, bound: Estimate) -> Said:
    """Whether the whole interval is on the claimed side of a bound, which may have an interval too."""
    (low, high), (least, most) = _ends(measured), _ends(bound)
    if claim.test == "above":
        low, high, least, most = -high, -low, -most, -least
    if high < least:
        return Verdict.REPRODUCED, ""
    if low >= most:
        exactly = "they are equal" if claim.than else f"it is {claim.bound:g}"
        return Verdict.NOT_REPRODUCED, "the other way round" if low > most else exactly
    why = "the intervals overlap" if claim.than else f"the interval contains {claim.bound:g}"
    return Verdict.NOT_COMPARABLE, f"{why}: {_more(claim, measured)}"


def _more(claim: Claim, measured: Estimate) -> str:
    """What would decide a claim that an interval leaves open."""
    if math.isinf(measured.value):
        return "no run of it reached the target, and each takes longer than it had"
    return "it takes more seeds" if claim.figure.rpartition("/")[2] in OVER_SEEDS else "measure longer"


def _difference(claim: Claim, by_seed: BySeed) -> Estimate | None:
    """The claim's figure less the other, over the seeds that both have; None where they are not matched."""
    if not (claim.figure in by_seed and claim.than in by_seed):
        return None
    own, other = by_seed[claim.figure], by_seed[claim.than]
    return mean_interval([value - other[seed] for seed, value in own.items() if seed in other])


def _seed_by_seed(claim: Claim, difference: Estimate) -> Said:
    """Whether the whole interval of the difference is on the claimed side of 0."""
    if not difference.has_interval:
        return Verdict.NOT_COMPARABLE, "a single seed has both, and decides nothing: it takes more of them"
    verdict, why = _beyond(claim, difference, Estimate(0.0))
    if verdict is Verdict.NOT_COMPARABLE:
        why = "seeds differ too much to tell which is lower: it takes more of them"
    return verdict, why


def _ends(estimate: Estimate) -> tuple[float, float]:
    return (estimate.low, estimate.high) if estimate.has_interval else (estimate.value, estimate.value)
