"""Differences: what two results share, by how much it moved, and what only one of them has."""

from __future__ import annotations

import math

import pytest

from fgbench.measurement.statistics import Estimate
from fgbench.regression.difference import MEMORY, RUNTIME, TIME_TO_TARGET, Difference, differences
from fgbench.regression.formats import differences_as
from tests.charts import made_up
from tests.charts.made_up import METHODS, group
from tests.regression.test_baseline import timed


def complete(root, of):
    """A run of one group, timed and trained."""
    run = made_up.run(root, [of])
    facts = run.facts()
    facts["config"]["processes"] = 5
    run._write(facts)
    return run


def test_a_run_against_itself_changed_in_nothing(tmp_path):
    run = complete(tmp_path, group(8))
    found = differences([run], [run])
    assert {d.figure for d in found} == {RUNTIME, MEMORY, TIME_TO_TARGET}
    for difference in found:
        if not math.isnan(difference.change.value):
            assert difference.change.value == 1.0
            assert difference.words in ("the same", "no difference seen")


def test_what_moved_is_said_with_its_interval_and_what_is_missing_is_listed(tmp_path):
    a, b = timed(tmp_path / "a"), timed(tmp_path / "b")
    table = b.read("ratios")
    table.loc[table["method"] == METHODS[1], ["ratio", "ratio_low", "ratio_high"]] *= 2
    table = table[table["method"] != METHODS[2]]
    b.replace("ratios", table.astype(object).where(table.notna(), None).to_dict("records"))
    moved, lost = (d for d in differences([a], [b]) if d.figure == RUNTIME)
    assert moved.change.value == pytest.approx(2.0)
    assert moved.change.low > 1 and moved.words == "more"
    assert "one run each" in moved.why
    assert (lost.words, lost.why) == ("not comparable", "not measured")
    other = complete(tmp_path / "c", group(16))
    apart = [d for d in differences([a], [other]) if d.figure == RUNTIME]
    assert [d.why for d in apart] == ["only in A"] * 2 + ["only in B"] * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Estimate(1.2, 1.1, 1.3), "more"),
        (Estimate(0.8, 0.7, 0.9), "less"),
        (Estimate(1.2, 0.9, 1.5), "no difference seen"),
        (Estimate(1.0), "the same"),
        (Estimate(1.1), "more"),
        (Estimate(math.nan), "not comparable"),
    ],
)
def test_words_follow_the_interval(change, words):
    assert Difference("a", RUNTIME, Estimate(1.0), Estimate(1.0), change).words == words


def test_every_format_has_the_figures(tmp_path):
    run = timed(tmp_path)
    found = differences([run], [run])
    for format in ("table", "markdown", "json"):
        text = differences_as(format, found)
        assert METHODS[1] in text
        assert "the same" in text
