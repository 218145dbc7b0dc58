"""Self-test of the check: it has to find a known slowdown, and must let unchanged code pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fgbench.errors import ResultsError
from fgbench.regression.checking import LOOKS, Answer, CheckedRatio, change_of, check, settled
from fgbench.regression.entries import entries_of_run
from fgbench.regression.entry import Entry, pooled
from fgbench.store.experiment import store_experiment
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import Role

MOST_FALSE = 0.02  # at most this share of checks of unchanged code may say REGRESSED
LEAST_FOUND = 0.95  # at least this share of checks has to find the slowdown


@dataclass(frozen=True)
class Probe:
    """One check whose right answer is known. A look is one more run that the check takes into account.

    Attributes:
        number: the number of the check.
        cell: the ratio's label; it is called so in stored files.
        source: `data` for a copy of the baseline, `run` for a measured run.
        slowed: the share by which the method was slower than when the baseline was measured.
        first: the answer after one look.
        answer: the answer after as many looks as `check --run` takes.
        looks: how many that were.
        change, low, high: the change after one look, with its interval.
        smallest: the regression that one look finds in four of five tries.
        power: how often one look finds a slowdown of `slowed`.
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


def on_data(baseline: Sequence[Entry], slowdown: float, tolerance: float) -> list[Probe]:
    """Check copies of the baseline, unchanged and slowed, as if each had been measured in one run."""
    probes = []
    for share in (0.0, slowdown):
        copies = [replace(_scaled(entry, 1 + share), runs=1, spread=0.0) for entry in baseline]
        probes += [_probe(0, "data", share, [v]) for v in check(baseline, copies, tolerance)]
    return probes


def on_runs(
    baseline: Sequence[Entry],
    looks: Sequence[Sequence[RunFolder]],
    tolerance: float,
    checks: int | None = None,
) -> list[Probe]:
    """Check measured runs: the methods as they are, and their repeats that were slowed.

    Args:
        baseline: the baseline's entries.
        looks: the runs of each look, measured with `--slowed`, in the order of time. Each look begins a
            check, which takes the looks that follow if it needs more.
        tolerance: the share by which a ratio may grow.
        checks: how many checks to make, from the first look on; None for all.

    Raises:
        ResultsError: a run has no slowed repeats, or is damaged.
    """
    probes = []
    for role in (Role.METHOD, Role.SLOWED):
        measured = [_known(look, role, baseline) for look in looks]
        for number in range(checks or len(looks)):
            share = _slowdown(looks[number]) if role == Role.SLOWED else 0.0
            for entry in baseline:
                verdicts = _looks(entry, measured[number : number + LOOKS], tolerance)
                probes.append(_probe(number, "run", share, verdicts))
    return probes


def _slowdown(look: Sequence[RunFolder]) -> float:
    return float(look[0].facts()["config"]["slowed"])


def _known(look: Sequence[RunFolder], role: str, baseline: Sequence[Entry]) -> list[Entry]:
    entries = [entry for run in look for entry in entries_of_run(run, role)]
    found = {entry.identity for entry in entries}
    missing = [entry.label for entry in baseline if entry.identity not in found]
    if missing:
        slowed = " slowed; measure with --slowed 10%" * (role == Role.SLOWED)
        raise ResultsError(f"{look[0].path} has no {missing[0]}{slowed}.")
    return entries


def _looks(entry: Entry, measured: Sequence[Sequence[Entry]], tolerance: float) -> list[CheckedRatio]:
    """The verdict after each look, until the check would be settled."""
    verdicts: list[CheckedRatio] = []
    for count in range(1, len(measured) + 1):
        own = [c for entries in measured[:count] for c in entries if c.identity == entry.identity]
        verdicts += check([entry], [pooled(own)], tolerance)
        if settled(verdicts[-1], count):
            break
    return verdicts


def _probe(number: int, source: str, share: float, verdicts: Sequence[CheckedRatio]) -> Probe:
    first, last = verdicts[0], verdicts[-1]
    if first.now is None or math.isnan(first.smallest):
        power = 0.0
    else:
        beyond = math.log((1 + share) / (1 + first.margin))
        power = change_of(first.entry, first.now).power(beyond)
    figures = (first.change, first.low, first.high, first.smallest)
    answers = (first.answer.value, last.answer.value)
    return Probe(number, first.entry.label, source, share, *answers, len(verdicts), *figures, power)


def _scaled(entry: Entry, factor: float) -> Entry:
    return replace(entry, **{name: factor * getattr(entry, name) for name in ("ratio", "low", "high")})


@dataclass(frozen=True)
class Finding:
    """The result of all probes of one kind.

    Attributes:
        source, slowed: the kind of probe.
        checks: how many probes there are.
        regressed_first, regressed: how many said REGRESSED after one look, and in the end.
        answers: how often each answer was given in the end.
        looks: the mean number of looks that a check took.
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
        """Whether the check nearly always found the slowdown, or hardly ever raised a false alarm."""
        if self.slowed:
            return self.regressed >= LEAST_FOUND * self.checks
        return self.regressed <= MOST_FALSE * self.checks


def findings(probes: Sequence[Probe]) -> list[Finding]:
    """A finding for each source and each slowdown."""
    kinds = dict.fromkeys((probe.source, probe.slowed) for probe in probes)
    found = []
    for source, share in kinds:
        own = [t for t in probes if (t.source, t.slowed) == (source, share)]
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


def store(folder: Path, probes: Sequence[Probe], facts: dict[str, Any]) -> None:
    """Write `gate.csv`, a probe a row, and `gate.json`, the findings beside the facts.

    Raises:
        UsageError: the folder cannot be written.
    """
    rows = [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(t).items()} for t in probes]
    found = [{**asdict(finding), "works": finding.works} for finding in findings(probes)]
    store_experiment(folder, "gate", rows, {**facts, "findings": found})
