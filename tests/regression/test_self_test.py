"""The self-test: a gate that works passes it, and one that cannot fail does not."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from fgbench.errors import ResultsError
from fgbench.regression.checking import LOOKS
from fgbench.regression.entries import entries_of
from fgbench.regression.formats import self_test_table
from fgbench.regression.self_test import findings, on_data, on_runs, store
from tests.charts.made_up import METHODS, group
from tests.regression.test_checking import ENTRY, TOLERANCE
from tests.regression.test_entries import timed


def with_slowed(root, by: float = 0.1, extra: float = 1.0):
    """A run whose methods ran once more, `extra` times as much slower as they should have."""
    run = timed(root)
    facts = run.facts()
    facts["config"]["slowed"] = by
    run._write(facts)
    table = run.read("ratios")
    own = table[(table["role"] == "method") & table["method"].isin(METHODS[1:])].copy()
    own["role"] = "slowed"
    own[["ratio", "ratio_low", "ratio_high"]] *= 1 + by * extra
    run.append("ratios", *own.astype(object).where(own.notna(), None).to_dict("records"))
    return run


def test_copies_of_a_precise_baseline_are_told_apart():
    unchanged, slower = findings(on_data([ENTRY], 0.10, TOLERANCE))
    assert (unchanged.slowed, unchanged.regressed, unchanged.works) == (0.0, 0, True)
    assert (slower.slowed, slower.regressed, slower.works) == (0.10, 1, True)


def test_a_noisy_baseline_fails_its_self_test_and_says_what_it_could_find():
    noisy = dataclasses.replace(ENTRY, spread=0.08)
    probes = on_data([noisy], 0.10, TOLERANCE)
    assert not findings(probes)[1].works
    assert probes[1].power < 0.2
    assert probes[1].smallest > 0.10


def test_a_baseline_of_one_run_cannot_fail_and_is_found_out():
    single = dataclasses.replace(ENTRY, runs=1, spread=0.0)
    assert [finding.works for finding in findings(on_data([single], 0.10, TOLERANCE))] == [True, False]


def test_every_run_is_a_check_and_takes_the_next_for_its_second_look(tmp_path):
    runs = [with_slowed(tmp_path / str(i), by=0.9) for i in range(5)]
    baseline = entries_of(runs[:3])
    probes = on_runs(baseline, [[run] for run in runs[3:]], 0.2)
    assert len(probes) == 2 * 2 * len(baseline)
    unchanged, slower = findings(probes)
    assert (unchanged.checks, unchanged.regressed, unchanged.works) == (4, 0, True)
    assert (slower.slowed, slower.checks, slower.regressed, slower.works) == (0.9, 4, 4, True)
    looks = {t.number: t.looks for t in probes if t.slowed}
    assert looks == {0: 2, 1: 1}, "the last has no next"
    assert max(t.looks for t in probes) <= LOOKS
    assert len(on_runs(baseline, [[run] for run in runs[3:]], 0.2, checks=1)) == 2 * len(baseline)


def test_a_slowdown_that_is_not_seen_is_wrong(tmp_path):
    runs = [with_slowed(tmp_path / str(i), by=0.9, extra=0.0) for i in range(4)]
    slower = findings(on_runs(entries_of(runs[:3]), [[runs[3]]], 0.2))[1]
    assert (slower.regressed, slower.works) == (0, False)


def test_runs_without_the_slowed_repeats_are_no_proof(tmp_path):
    run = timed(tmp_path)
    with pytest.raises(ResultsError, match=f"{group(8).name} .* slowed; measure with --slowed"):
        on_runs(entries_of([run]), [[run]], 0.2)


def test_what_was_found_is_stored_a_trial_a_row(tmp_path):
    probes = on_data([ENTRY], 0.10, TOLERANCE)
    store(tmp_path / "out", probes, {"tolerance": TOLERANCE})
    header, *rows = (tmp_path / "out" / "gate.csv").read_text().splitlines()
    assert len(rows) == 2
    assert header.startswith("number,cell,source,slowed")
    facts = json.loads((tmp_path / "out" / "gate.json").read_text())
    assert (facts["tolerance"], [f["works"] for f in facts["findings"]]) == (TOLERANCE, [True, True])


def test_an_invalid_trial_does_not_touch_the_others_figures_in_the_table():
    sound = on_data([ENTRY], 0.10, TOLERANCE)
    invalid = [dataclasses.replace(t, smallest=math.nan, answer="INVALID", first="INVALID") for t in sound]
    for probes in ([*sound, *invalid], [*invalid, *sound], [*invalid, *sound, *invalid]):
        assert self_test_table(probes).count(f"{sound[0].smallest:+.1%}") == 2


def test_what_is_not_as_it_should_be_has_a_line_that_says_what_helps():
    (unchanged, slowed) = on_data([ENTRY], 0.10, TOLERANCE)
    right = self_test_table([unchanged, slowed])
    assert "store" not in right
    missed = self_test_table([unchanged, dataclasses.replace(slowed, answer="INCONCLUSIVE")])
    assert "1 of 2 are not as they should be" in missed
    assert "to find such a slowdown, store a baseline of more runs (--repeat" in missed
    alarm = self_test_table([dataclasses.replace(unchanged, answer="REGRESSED"), slowed])
    assert "runs differ by more than the baseline's do" in alarm


def test_with_one_run_each_there_is_no_smallest_regression_and_none_is_shown():
    table = self_test_table(on_data([dataclasses.replace(ENTRY, runs=1, spread=0.0)], 0.10, TOLERANCE))
    assert "INCONCLUSIVE" in table
    assert "nan" not in table
