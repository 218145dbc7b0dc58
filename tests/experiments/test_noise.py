"""The noise experiment over comparisons that are drawn: what it says of them is what they are."""

from __future__ import annotations

import csv
import json
import math
import random

import pytest
from scipy import stats

from fgbench.errors import UsageError
from fgbench.experiments import noise
from fgbench.experiments.known_work import RoundTimed
from fgbench.experiments.noise import (
    KNOWN,
    PAIRS,
    Experiment,
    KnownComparison,
    Shares,
    compare_known,
    findings,
)
from fgbench.running import arms

PROCESSES = 5


def drawn(count: int, truth: float, spread: float = 0.01, claimed: float = 1.0) -> list[KnownComparison]:
    """Normal logs, a t-interval over them; `claimed` times as wide as it ought to be."""
    rng, quantile = random.Random(1), float(stats.t.ppf(0.975, PROCESSES - 1))
    made = []
    for number in range(count):
        logs = [rng.gauss(math.log(truth), spread) for _ in range(PROCESSES)]
        middle = sum(logs) / PROCESSES
        error = math.sqrt(sum((x - middle) ** 2 for x in logs) / (PROCESSES - 1) / PROCESSES)
        reach = claimed * quantile * error
        low, high = math.exp(middle - reach), math.exp(middle + reach)
        kind = "aa" if truth == 1 else "known"
        made.append(
            KnownComparison(number, kind, truth, math.exp(middle), low, high, low, high, PROCESSES, 60, 0.01)
        )
    return made


def test_coverage_is_that_of_the_intervals():
    honest = findings(drawn(2000, 1.0))
    # 2000 draws at 95 %: four standard errors are 2 %.
    assert honest.coverage.value == pytest.approx(0.95, abs=0.02)
    assert honest.coverage.low < 0.95 < honest.coverage.high
    assert honest.found == pytest.approx(1 - honest.coverage.value)
    assert findings(drawn(2000, 1.0, claimed=0.3)).coverage.value < 0.7


def test_the_smallest_difference_is_one_that_four_of_five_find():
    smallest = findings(drawn(2000, 1.0)).smallest
    assert findings(drawn(2000, 1 + smallest)).found == pytest.approx(0.8, abs=0.06)


def test_the_floor_is_what_one_in_twenty_exceeds():
    made = drawn(2000, 1.0)
    floor = findings(made).floor
    assert sum(abs(c.ratio - 1) > floor for c in made) == pytest.approx(100, abs=2)


def test_the_experiment_is_stored_whole(tmp_path):
    experiment = Experiment([*drawn(4, 1.0), *drawn(2, KNOWN)], [Shares(0.9, 0.09, 0.01)])
    experiment.store(tmp_path / "new", {"command": "fgbench doctor"})
    with (tmp_path / "new" / "noise.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["kind"] for r in rows] == ["aa"] * 4 + ["known"] * 2
    facts = json.loads((tmp_path / "new" / "noise.json").read_text())
    assert facts["findings"]["known"]["count"] == 2
    assert facts["harness_share"] == 0.01
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--out"):
        experiment.store(tmp_path / "file" / "below", {})


def test_it_finds_the_ratio_that_workers_report(monkeypatch):
    def work(_task, request):
        for number in range(1, 8):
            yield RoundTimed({arm: units * (1 + 0.001 * number) for arm, units in request.arms.items()})
        yield arms.Spent(wall=10.0, timed=8.0, lead_in=1.5, harness=0.5)

    monkeypatch.setattr(noise, "work", work)
    spent: list[Shares] = []
    (first, second) = compare_known(2, 3, 0.1, "cpu", 1, spent)
    assert [c.kind for c in first] == ["aa"] * (len(PAIRS) - 1) + ["known"]
    assert [c.ratio for c in second] == pytest.approx([1.0, 1.0, KNOWN])
    assert {c.processes for c in first} == {3}
    assert {c.rounds for c in first} == {21}
    assert spent == [Shares(0.8, 0.15, 0.05)] * 6


def test_a_real_set_of_processes_comes_back():
    spent: list[Shares] = []
    (found,) = compare_known(1, 2, 0.3, "cpu", 1, spent)
    assert len(found) == len(PAIRS)
    assert all(0.2 < c.ratio < 5 for c in found)
    assert len(spent) == 2
