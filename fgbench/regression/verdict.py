"""Verdicts: one of five answers for each ratio of a baseline, and the smallest regression it would see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from scipy import stats

from fgbench.measurement.statistics import CONFIDENCE, detectable
from fgbench.regression.baseline import CONDITIONS, Cell


class Answer(Enum):
    """What may be said of a ratio."""

    PASS = "PASS"
    IMPROVED = "IMPROVED"
    REGRESSED = "REGRESSED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"
    NEW = "NEW"
    """Not in the baseline: listed, and neither passed nor failed."""


@dataclass(frozen=True)
class Verdict:
    """One row of a check.

    Attributes:
        answer: the verdict.
        cell: of the baseline; for NEW the measured one.
        now: what was measured; None where nothing was.
        change, low, high: ratio now over ratio then, with its 95 % interval; NaN without one.
        margin: a change beyond 1 + margin counts.
        smallest: regression that a run as precise as this would have found in four of five tries.
        why: of INVALID, and what was let through by `--allow-mismatch`.
    """

    answer: Answer
    cell: Cell
    now: Cell | None = None
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    margin: float = math.nan
    smallest: float = math.nan
    why: str = ""


def check(
    baseline: Sequence[Cell], measured: Sequence[Cell], tolerance: float, *, allow_mismatch: bool = False
) -> list[Verdict]:
    """A verdict for each cell of the baseline, then the cells that are new.

    Args:
        baseline: what to hold on to.
        measured: of the runs to judge.
        tolerance: share by which a ratio may grow.
        allow_mismatch: compare results of other conditions, and say so, instead of refusing.
    """
    left = list(measured)
    verdicts = []
    for cell in baseline:
        now = _partner(cell, left)
        if now is None:
            verdicts.append(Verdict(Answer.INVALID, cell, why="missing: nothing measured for it"))
            continue
        left.remove(now)
        verdicts.append(_judged(cell, now, tolerance, allow_mismatch))
    return [*verdicts, *(Verdict(Answer.NEW, cell, cell, why=cell.fault) for cell in left)]


def exit_code(verdicts: Sequence[Verdict], *, inconclusive_passes: bool = False) -> int:
    """0 pass or improved, 1 regressed, 3 inconclusive, 4 invalid or nothing measured."""
    answers = {verdict.answer for verdict in verdicts}
    if Answer.REGRESSED in answers:
        return 1
    if Answer.INVALID in answers or answers <= {Answer.NEW}:
        return 4
    return 3 if Answer.INCONCLUSIVE in answers and not inconclusive_passes else 0


def _partner(cell: Cell, measured: Sequence[Cell]) -> Cell | None:
    """The measured cell of the same conditions, or else the first of the same identity."""
    same = [other for other in measured if other.identity == cell.identity]
    alike = [other for other in same if other.conditions == cell.conditions]
    return next(iter([*alike, *same]), None)


def _judged(cell: Cell, now: Cell, tolerance: float, allow_mismatch: bool) -> Verdict:
    if now.fault:
        return Verdict(Answer.INVALID, cell, now, why=now.fault)
    mismatch = _mismatch(cell, now)
    if mismatch and not allow_mismatch:
        return Verdict(Answer.INVALID, cell, now, why=f"{mismatch} (--allow-mismatch compares all the same)")
    margin = max(tolerance, cell.floor, now.floor)
    change, error, degrees = math.log(now.ratio / cell.ratio), *_welch(cell, now)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * error
    low, high = math.exp(change - reach), math.exp(change + reach)
    smallest = (1 + margin) * math.exp(detectable(error, degrees)) - 1
    answer = _answer(low, high, 1 + margin)
    return Verdict(answer, cell, now, math.exp(change), low, high, margin, smallest, mismatch)


def _answer(low: float, high: float, bound: float) -> Answer:
    if low > bound:
        return Answer.REGRESSED
    if high < 1 / bound:
        return Answer.IMPROVED
    return Answer.PASS if high <= bound else Answer.INCONCLUSIVE


def _welch(one: Cell, other: Cell) -> tuple[float, float]:
    """Standard error of the difference of the logarithms, and its degrees of freedom."""
    squares = [one.error**2, other.error**2]
    total = sum(squares)
    if total == 0:
        return 0.0, float(one.degrees)
    parts = zip(squares, (one.degrees, other.degrees), strict=True)
    return math.sqrt(total), total**2 / sum(square**2 / degrees for square, degrees in parts)


def _mismatch(cell: Cell, now: Cell) -> str:
    pairs = zip(CONDITIONS, cell.conditions, now.conditions, strict=True)
    differing = [
        f"{name} {then or 'none'} then, {this or 'none'} now" for name, then, this in pairs if then != this
    ]
    if differing:
        return "; ".join(differing)
    return "" if cell.contract == now.contract else "another contract: the model's code or the held-out set"
