"""Ratios checked against a baseline: one of five answers for each, and the smallest change it would see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from fgbench.measurement.statistics import Estimate, detectable, power, t_quantile
from fgbench.regression.entry import Entry, another_contract, chosen_otherwise, differing

ONE_RUN_EACH = "with one run then and one now it is not known how much runs differ; --repeat makes several"


LOOKS = 3  # the most runs that `check --run` takes before it answers


class Answer(Enum):
    """The answers that a check can give for a ratio."""

    PASS = "PASS"
    IMPROVED = "IMPROVED"
    REGRESSED = "REGRESSED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"
    NEW = "NEW"
    """Not in the baseline; it is listed, and neither passes nor fails."""


@dataclass(frozen=True)
class CheckedRatio:
    """One row of a check.

    Attributes:
        answer: the check's answer.
        entry: the baseline's entry; for NEW the measured one.
        now: the measured entry; None where nothing was measured.
        change, low, high: ratio now over ratio then, with its 95 % interval; NaN without one.
        margin: only a change beyond 1 + margin counts; it is the tolerance, or the A/A floor if larger.
        smallest: the smallest regression that runs as precise as these find in four of five tries; NaN with
            one run on either side, which would find none.
        why: why the answer is INVALID; what would help if it is INCONCLUSIVE; what `--allow-mismatch` let
            through; what `best` chose differently.
    """

    answer: Answer
    entry: Entry
    now: Entry | None = None
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    margin: float = math.nan
    smallest: float = math.nan
    why: str = ""


def check(
    baseline: Sequence[Entry], measured: Sequence[Entry], tolerance: float, *, allow_mismatch: bool = False
) -> list[CheckedRatio]:
    """A verdict for each entry of the baseline, then one for each entry that is new.

    Args:
        baseline: the baseline's entries.
        measured: the entries of the runs to judge.
        tolerance: the share by which a ratio may grow.
        allow_mismatch: compare results of different conditions, and say so, instead of refusing to.
    """
    partners, left = _partners(baseline, measured)
    verdicts = [
        CheckedRatio(Answer.INVALID, entry, why="missing: nothing was measured for it")
        if now is None
        else _judged(entry, now, tolerance, allow_mismatch)
        for entry, now in zip(baseline, partners, strict=True)
    ]
    return [*verdicts, *(CheckedRatio(Answer.NEW, entry, entry, why=entry.fault) for entry in left)]


def settled(verdict: CheckedRatio, looks: int) -> bool:
    """Whether no further run is needed; REGRESSED needs two runs, as one may be unlucky."""
    if verdict.answer is Answer.REGRESSED:
        return looks > 1
    return verdict.answer is not Answer.INCONCLUSIVE or looks >= LOOKS


def exit_code(verdicts: Sequence[CheckedRatio], *, inconclusive_passes: bool = False) -> int:
    """The exit code: 0 for pass or improved, 1 regressed, 3 inconclusive, 4 invalid or nothing measured."""
    answers = {verdict.answer for verdict in verdicts}
    if Answer.REGRESSED in answers:
        return 1
    if Answer.INVALID in answers or answers <= {Answer.NEW}:
        return 4
    return 3 if Answer.INCONCLUSIVE in answers and not inconclusive_passes else 0


def _partners(baseline: Sequence[Entry], measured: Sequence[Entry]) -> tuple[list[Entry | None], list[Entry]]:
    """For each entry of a baseline the measured one of the same identity, and those that are left over.

    Those of the same conditions find each other first: a baseline may hold a ratio for several machines.
    """
    left = list(measured)
    partners: list[Entry | None] = [None] * len(baseline)
    for alike in (True, False):
        for place, entry in enumerate(baseline):
            if partners[place] is not None:
                continue
            same = (other for other in left if other.identity == entry.identity)
            found = next((other for other in same if not (alike and differing(entry, other))), None)
            if found is not None:
                left.remove(found)
                partners[place] = found
    return partners, left


def _judged(entry: Entry, now: Entry, tolerance: float, allow_mismatch: bool) -> CheckedRatio:
    if now.fault:
        return CheckedRatio(Answer.INVALID, entry, now, why=now.fault)
    mismatch = _mismatch(entry, now)
    if mismatch and not allow_mismatch:
        return CheckedRatio(
            Answer.INVALID, entry, now, why=f"{mismatch} (--allow-mismatch compares them anyway)"
        )
    floor = max(entry.floor, now.floor)
    margin = max(tolerance, floor)
    change = change_of(entry, now)
    ratio = change.ratio
    if entry.runs == now.runs == 1:
        answer, also, smallest = Answer.INCONCLUSIVE, ONE_RUN_EACH, math.nan
    else:
        answer = _answer(ratio, 1 + tolerance, floor)
        also = _over_tolerance(floor, tolerance) if answer is Answer.INCONCLUSIVE else ""
        smallest = (1 + margin) * math.exp(change.detectable) - 1
    why = "; ".join(filter(None, (mismatch, chosen_otherwise(entry, now), also)))
    return CheckedRatio(answer, entry, now, ratio.value, ratio.low, ratio.high, margin, smallest, why)


@dataclass(frozen=True)
class Change:
    """A ratio now over a ratio then.

    Attributes:
        ratio: the quotient, with its 95 % interval.
        error: standard error of its logarithm.
        degrees: degrees of freedom of that error.
    """

    ratio: Estimate
    error: float
    degrees: float

    @property
    def detectable(self) -> float:
        """The difference of logarithms that as many runs, as precise as these, find in four of five tries."""
        return detectable(self.error, self.degrees)

    def power(self, difference: float) -> float:
        """How often they find such a difference of logarithms: the interval excludes 0, on the right side."""
        if self.error == 0:
            return float(difference > 0)
        return power(difference / self.error, self.degrees)


def change_of(then: Entry, now: Entry) -> Change:
    """The change from one entry to another.

    With several runs on a side it is Student's two-sample t over runs, with one spread for both sides, which
    is at least the spread that the processes of a run show. With one run on either side it is not known how
    much runs differ; then it is Welch's t over processes, which is too narrow by that.
    """
    degrees: float = then.runs + now.runs - 2
    if degrees:
        squares = (then.runs - 1) * then.spread**2 + (now.runs - 1) * now.spread**2
        within = (then.runs * then.within**2 + now.runs * now.within**2) / (then.runs + now.runs)
        error = math.sqrt(max(squares / degrees, within) * (1 / then.runs + 1 / now.runs))
    else:
        error, degrees = _welch(then, now)
    change, reach = math.log(now.ratio / then.ratio), t_quantile(degrees) * error
    ratio = Estimate(change, change - reach, change + reach).exponentiated()
    return Change(ratio, error, degrees)


def _answer(change: Estimate, allowed: float, floor: float) -> Answer:
    """The answer for a change; PASS is not given where the A/A floor is above the tolerance."""
    beyond = max(allowed, 1 + floor)
    if change.low > beyond:
        return Answer.REGRESSED
    if change.high < 1 / beyond:
        return Answer.IMPROVED
    return Answer.PASS if change.high <= allowed and beyond == allowed else Answer.INCONCLUSIVE


def _over_tolerance(floor: float, tolerance: float) -> str:
    if floor <= tolerance:
        return ""
    return (
        f"the reference may differ from itself by {floor:.1%} (A/A floor), more than the tolerance of "
        f"{tolerance:.1%}: longer or more runs (--max-measure-seconds, --repeat), also for the baseline, "
        "or a larger --tolerance would help"
    )


def _welch(one: Entry, other: Entry) -> tuple[float, float]:
    """Standard error of the difference of the logarithms, and its degrees of freedom."""
    squares = [one.within**2, other.within**2]
    total = sum(squares)
    if total == 0:
        return 0.0, float(one.degrees)
    parts = zip(squares, (one.degrees, other.degrees), strict=True)
    return math.sqrt(total), total**2 / sum(square**2 / degrees for square, degrees in parts)


def _mismatch(entry: Entry, now: Entry) -> str:
    found = [f"{name} {then} then, {this} now" for name, then, this in differing(entry, now)]
    return "; ".join(found) or another_contract(entry, now)
