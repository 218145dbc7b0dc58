"""What a figure out of reach would take, by the steps of runs that are there."""

from __future__ import annotations

import pytest

from fgbench.plan import Config
from fgbench.reproduction.reach import _work, hours_of
from tests.charts import made_up
from tests.charts.made_up import METHODS, group

HOUR = 3600


@pytest.fixture
def runs(tmp_path):
    return [made_up.run(tmp_path / "one", [group(8)])]


def asked(steps: int | None, **changes) -> Config:
    facts = {"archs": ("mlp",), "depths": (8,), "width": group(8).width, "batch": group(8).batch}
    return Config(**{**facts, "dataset": group(8).dataset, "max_iterations": steps, "seeds": 2, **changes})


def hours(text: str) -> float:
    return float(text.split()[1])


def step_seconds(runs, method: str) -> float:
    ratios = runs[0].read("ratios")
    return float(ratios[(ratios["method"] == method) & (ratios["role"] == "method")]["seconds"].iloc[0])


def test_the_same_group_s_steps_times_those_of_all_runs(runs):
    steps = int(50 * HOUR / step_seconds(runs, METHODS[1]))
    said = hours_of(asked(steps), group(8).name, METHODS[1], runs)
    assert hours(said) == pytest.approx(100, rel=0.02)
    assert said.endswith("by its steps as timed here")
    assert "thread" in said


def test_a_method_that_was_not_timed_counts_as_many_passes_as_it_takes(runs):
    steps = int(50 * HOUR / step_seconds(runs, "backprop"))
    said = hours_of(asked(steps), group(8).name, "forward:tangents=8", runs)
    assert hours(said) == pytest.approx(300, rel=0.02), "nine passes over backprop's three"
    assert said.endswith("by backprop's steps as timed here, scaled by the number of passes")


def test_a_larger_network_s_steps_are_as_many_multiplications(runs):
    steps = int(50 * HOUR / step_seconds(runs, METHODS[1]))
    wide = asked(steps, width=4 * group(8).width, dataset="mnist")
    name = f"mlp-d8-w{4 * group(8).width}-b{group(8).batch}"
    said = hours_of(wide, name, METHODS[1], runs)
    assert said.endswith("by its steps as timed here, scaled by operations")
    small = ("mlp", 8, group(8).width, group(8).batch, group(8).dataset)
    large = ("mlp", 8, 4 * group(8).width, group(8).batch, "mnist")
    assert hours(said) == pytest.approx(100 * _work(large) / _work(small), rel=0.05)


def test_nothing_is_said_where_nothing_is_known(runs):
    assert hours_of(asked(None), group(8).name, METHODS[1], runs) == "", "no number of steps"
    assert hours_of(asked(10), group(8).name, METHODS[1], []) == "", "nothing timed"
    assert hours_of(asked(10), "mlp-d9-w9-b9", METHODS[1], runs) == "", "another group"
    other = asked(10, archs=("cnn",), depths=(4,))
    assert hours_of(other, f"cnn-d4-w{group(8).width}-b{group(8).batch}", METHODS[1], runs) == ""
