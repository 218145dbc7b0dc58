"""Self-test: the gate is given what it has to find, a known slowdown, and what it must let through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fgbench.errors import ResultsError
from fgbench.regression.baseline import Cell, cells_of_run, pooled
from fgbench.regression.verdict import LOOKS, Answer, Verdict, change_of, check, settled
from fgbench.store.experiment import store_experiment
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import Role

MOST_FALSE, LEAST_FOUND = 0.02, 0.95  # of checks: called a regression without one; one that is found


@dataclass(frozen=True)
class Trial:
    """One check whose right answer is known.

    Attributes:
        number: of the check.
        cell: label of the ratio.
        source: `data`, a copy of the baseline; or `run`, what a run measured.
        slowed: by what share the method was slower than when the baseline was measured.
        first: the answer by one run.
        answer: after as many looks as `check --run` takes, the later ones being the runs that follow.
        looks: how many that were.
        change, low, high: by one run.
        smallest: regression that one run finds in four of five tries.
        power: how often one run finds `slowed`.
    """

    number: int
    cell: str
    source: str
    slowed: float
    first: str
    answer: str
    looks: int
    change: float
    low: float
    high: float
    smallest: float
    power: float


def on_data(baseline: Sequence[Cell], slowdown: float, tolerance: float) -> list[Trial]:
    """Copies of the baseline as if each row had been measured again, in one run, as it was and slower."""
    trials = []
    for share in (0.0, slowdown):
        copies = [replace(_scaled(cell, 1 + share), runs=1, spread=0.0) for cell in baseline]
        trials += [_trial(0, "data", share, [v]) for v in check(baseline, copies, tolerance)]
    return trials


def on_runs(
    baseline: Sequence[Cell],
    looks: Sequence[Sequence[RunFolder]],
    tolerance: float,
    checks: int | None = None,
) -> list[Trial]:
    """Every look begins a check: of the methods as they are, and of their repeats that were slowed.

    Args:
        baseline: what to hold on to.
        looks: what was measured in one go, with `--slowed`, in the order of time; a check that needs
            another look takes the one that follows.
        tolerance: share by which a ratio may grow.
        checks: how many, from the first look on; all where it is None.

    Raises:
        ResultsError: a run has no slowed repeats, or is damaged.
    """
    trials = []
    for role in (Role.METHOD, Role.SLOWED):
        measured = [_known(look, role, baseline) for look in looks]
        for number in range(checks or len(looks)):
            share = _slowdown(looks[number]) if role == Role.SLOWED else 0.0
            for cell in baseline:
                verdicts = _looks(cell, measured[number : number + LOOKS], tolerance)
                trials.append(_trial(number, "run", share, verdicts))
    return trials


def _slowdown(look: Sequence[RunFolder]) -> float:
    return float(look[0].facts()["config"]["slowed"])


def _known(look: Sequence[RunFolder], role: str, baseline: Sequence[Cell]) -> list[Cell]:
    cells = [cell for run in look for cell in cells_of_run(run, role)]
    found = {cell.identity for cell in cells}
    missing = [cell.label for cell in baseline if cell.identity not in found]
    if missing:
        slowed = " slowed; measure with --slowed 10%" * (role == Role.SLOWED)
        raise ResultsError(f"{look[0].path}: has no {missing[0]}{slowed}.")
    return cells


def _looks(cell: Cell, measured: Sequence[Sequence[Cell]], tolerance: float) -> list[Verdict]:
    """The verdict after each look, as long as the gate would look again."""
    verdicts: list[Verdict] = []
    for count in range(1, len(measured) + 1):
        own = [c for cells in measured[:count] for c in cells if c.identity == cell.identity]
        verdicts += check([cell], [pooled(own)], tolerance)
        if settled(verdicts[-1], count):
            break
    return verdicts


def _trial(number: int, source: str, share: float, verdicts: Sequence[Verdict]) -> Trial:
    first, last = verdicts[0], verdicts[-1]
    if first.now is None or math.isnan(first.smallest):
        power = 0.0
    else:
        beyond = math.log((1 + share) / (1 + first.margin))
        power = change_of(first.cell, first.now).power(beyond)
    figures = (first.change, first.low, first.high, first.smallest)
    answers = (first.answer.value, last.answer.value)
    return Trial(number, first.cell.label, source, share, *answers, len(verdicts), *figures, power)


def _scaled(cell: Cell, factor: float) -> Cell:
    return replace(cell, **{name: factor * getattr(cell, name) for name in ("ratio", "low", "high")})


@dataclass(frozen=True)
class Finding:
    """What the trials of one kind say of the gate.

    Attributes:
        source, slowed: the kind.
        checks: how many.
        regressed_first, regressed: how many said REGRESSED, by one run and in the end.
        answers: how often each answer was given in the end.
        looks: runs that a check took, in the mean.
        works: hardly ever REGRESSED with nothing changed, nearly always with a slowdown.
    """

    source: str
    slowed: float
    checks: int
    regressed_first: int
    regressed: int
    answers: dict[str, int]
    looks: float

    @property
    def works(self) -> bool:
        """Whether the gate did here what it is for."""
        if self.slowed:
            return self.regressed >= LEAST_FOUND * self.checks
        return self.regressed <= MOST_FALSE * self.checks


def findings(trials: Sequence[Trial]) -> list[Finding]:
    """One for each source and slowdown."""
    kinds = dict.fromkeys((trial.source, trial.slowed) for trial in trials)
    found = []
    for source, share in kinds:
        own = [t for t in trials if (t.source, t.slowed) == (source, share)]
        given = [t.answer for t in own]
        name = Answer.REGRESSED.value
        found.append(
            Finding(
                source,
                share,
                len(own),
                sum(t.first == name for t in own),
                given.count(name),
                {answer.value: given.count(answer.value) for answer in Answer if answer.value in given},
                sum(t.looks for t in own) / len(own),
            )
        )
    return found


def store(folder: Path, trials: Sequence[Trial], facts: dict[str, Any]) -> None:
    """Write `gate.csv`, a trial a row, and `gate.json`, the findings beside the facts.

    Raises:
        UsageError: the folder cannot be written.
    """
    rows = [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(t).items()} for t in trials]
    found = [{**asdict(finding), "works": finding.works} for finding in findings(trials)]
    store_experiment(folder, "gate", rows, {**facts, "findings": found})
