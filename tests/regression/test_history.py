"""History: change points by series whose changes are known, and the series of runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fgbench import cli
from fgbench.regression.history import FALSE_ALARMS, LEAST, change_points, histories
from tests.charts import made_up
from tests.charts.made_up import METHODS
from tests.regression.test_entries import timed, with_repeats


@pytest.mark.parametrize("heavy", [False, True])
def test_a_series_without_a_change_is_hardly_ever_cut(heavy):
    """Whatever its distribution: the test is a permutation's."""
    rng = np.random.default_rng(0)
    series = rng.standard_t(2, (400, 24)) if heavy else rng.normal(0, 1, (400, 24))
    cut = sum(bool(change_points(values)) for values in series)
    # 1 % of 400; three standard errors are 6.
    assert cut <= 400 * FALSE_ALARMS + 6


def test_a_step_is_found_where_it_is():
    rng = np.random.default_rng(1)
    near = 0
    for _ in range(100):
        values = [*rng.normal(0, 1, 15), *rng.normal(3, 1, 15)]
        near += any(abs(at - 15) <= 1 for at in change_points(values))
    assert near >= 95


def test_every_step_of_several_is_found_and_too_small_a_one_is_not_marked():
    rng = np.random.default_rng(2)
    values = np.repeat([0.0, 0.1, 0.05, 0.058], 12) + rng.normal(0, 0.003, 48)
    assert change_points(values, least=0.02) == [12, 24]
    assert change_points(values) == [12, 24, 36]


def test_too_few_runs_say_nothing():
    assert change_points([0.0] * LEAST + [9.0] * (LEAST - 1)) == []
    assert change_points([1.0] * 30) == [], "nor do equal ones"


def test_the_plainest_step_takes_the_eleven_runs_that_the_help_names():
    """With so few, shuffling separates them as well too often, and the help must not promise more."""
    assert "three runs on either side and eleven in all" in " ".join(str(cli.history.__doc__).split())
    assert LEAST == 3
    steps = {runs: [0.0, 0.01, 0.02, *(1 + at / 100 for at in range(runs - 3))] for runs in (9, 11)}
    assert {runs: change_points(values) for runs, values in steps.items()} == {9: [], 11: [3]}


def test_what_is_there_twice_is_one_point(tmp_path, capsys):
    runs, own = with_repeats(tmp_path)
    series = histories(runs[::-1], 0.02)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [len(one.points) for one in series] == [len(own)] * len(METHODS[1:])


def test_runs_become_a_series_each_with_its_changes_and_commits(tmp_path):
    runs = []
    for day in range(1, 13):
        run = timed(tmp_path / str(day))
        facts = run.facts() | {"started": f"2026-01-{day:02}T00:00:00+00:00"}
        facts["environment"] |= {"git": f"c{day}"}
        run._write(facts)
        table = run.read("ratios")
        factor = 1.2 if day > 6 else 1 + day / 1000
        columns = ["ratio", "ratio_low", "ratio_high"]
        table.loc[table["method"] == METHODS[1], columns] *= factor
        run.replace("ratios", table.astype(object).where(table.notna(), None).to_dict("records"))
        runs.append(run)
    moved, still = histories(runs[::-1], 0.02)
    assert [moved.points[0].commit, moved.points[-1].commit] == ["c1", "c12"]
    (change,) = moved.changes
    assert moved.points[change.at].commit == "c7"
    assert change.change.value == pytest.approx(1.2 / 1.0035, rel=1e-3)
    assert moved.stretches == [(0, 6), (6, 12)]
    assert moved.level((6, 12)).value == pytest.approx(1.2 * made_up.ratio(METHODS[1], 8))
    assert not still.changes
    assert math.isclose(still.level((0, 12)).value, made_up.ratio(METHODS[2], 8))
