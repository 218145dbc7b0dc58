"""Differences: what two results share, by how much it moved, and what only one of them has."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fgbench.measurement.statistics import Estimate
from fgbench.regression.difference import (
    MEMORY,
    RUNTIME,
    TIME_TO_TARGET,
    Difference,
    _over,
    differences,
)
from fgbench.regression.formats import differences_as
from tests.charts import made_up
from tests.charts.made_up import METHODS, group
from tests.regression.test_entries import timed, with_repeats


def complete(root, of, **more):
    """A run of one group, timed and trained."""
    run = made_up.run(root, [of], **more)
    aa = {"group": of.name, "method": METHODS[0], "role": "aa", "reference": METHODS[0], "processes": 5}
    run.append("ratios", {**aa, "ratio": 1.0, "ratio_low": 0.99, "ratio_high": 1.01})
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


def test_what_is_there_twice_on_a_side_counts_once_there(tmp_path, capsys):
    runs, own = with_repeats(tmp_path)
    changes, alike = ([str(d.change) for d in differences(both, both)] for both in (runs, own))
    assert changes == alike  # as words: no nan equals itself
    assert len(capsys.readouterr().err.splitlines()) == 2, "a line for each side"
    assert not any("one run each" in d.why for d in differences([own[0]], runs))


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
        (Estimate(1.1), "no interval to judge by"),
        (Estimate(math.nan), "not comparable"),
    ],
)
def test_words_follow_the_interval(change, words):
    assert Difference("a", RUNTIME, Estimate(1.0), Estimate(1.0), change).words == words


def test_memory_has_no_interval_and_what_is_shown_as_no_change_is_none():
    changes = (1.0, 1.0004, 0.9996, 1.001, 0.9)
    figures = [Difference("a", MEMORY, Estimate(1.0), Estimate(x), Estimate(x)) for x in changes]
    assert [d.words for d in figures] == ["the same", "the same", "the same", "more", "less"]


def by_figure(a, b, figure):
    return [d for d in differences([a], [b]) if d.figure == figure]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dtype": "bfloat16"}, "dtype float32 → bfloat16"),
        ({"threads": 8}, "threads 2 → 8"),
        ({"execution": "compile"}, "execution eager → compile"),
    ],
)
@pytest.mark.parametrize("figure", [RUNTIME, MEMORY, TIME_TO_TARGET])
def test_what_was_measured_otherwise_is_left_out_and_said(tmp_path, changes, why, figure):
    a, b = complete(tmp_path / "a", group(8)), complete(tmp_path / "b", group(8, **changes))
    found = by_figure(a, b, figure)
    assert found
    assert all(d.words == "not comparable" and why in d.why for d in found if d.why != "only in B")
    lines = differences_as("markdown", found).splitlines()
    assert sum(line.startswith("left out: ") for line in lines) == len(found)


@pytest.mark.parametrize("figure", [RUNTIME, MEMORY, TIME_TO_TARGET])
def test_another_device_is_not_compared(tmp_path, figure):
    a, b = complete(tmp_path / "a", group(8)), complete(tmp_path / "b", group(8))
    facts = b.facts()
    facts["environment"]["device_name"] = "another processor"
    b._write(facts)
    found = by_figure(a, b, figure)
    assert {d.words for d in found} == {"not comparable"}
    assert all("device a processor → another processor" in d.why for d in found)


def test_a_time_with_searched_rates_or_another_target_is_not_compared_and_memory_is(tmp_path):
    a, b = complete(tmp_path / "a", group(8)), complete(tmp_path / "b", group(8))
    facts = b.facts()
    facts["config"]["learning_rate"] = 0.01
    b._write(facts)
    found = by_figure(a, b, TIME_TO_TARGET)
    assert {d.words for d in found} == {"not comparable"}
    assert all("learning rates searched for each method alike → learning rate 0.01" in d.why for d in found)
    assert {d.words for d in by_figure(a, b, MEMORY)} == {"the same"}
    c = complete(tmp_path / "c", group(8), targets=[0.8])
    assert all(
        "target validation loss 1 → validation loss 0.8" in d.why for d in by_figure(a, c, TIME_TO_TARGET)
    )


def test_another_torch_is_compared_and_noted(tmp_path):
    a, b = complete(tmp_path / "a", group(8)), complete(tmp_path / "b", group(8))
    facts = b.facts()
    facts["environment"]["libraries"]["torch"] = "2.9.0"
    b._write(facts)
    for difference in differences([a], [b]):
        assert "torch 2.0 → 2.9" in difference.why
        assert difference.words != "not comparable"


def test_of_several_conditions_each_meets_its_like(tmp_path):
    runs = {d: complete(tmp_path / d, group(8, dtype=d)) for d in ("float32", "float64")}
    found = differences(list(runs.values()), [runs["float64"]])
    assert [d.words for d in found if d.figure == MEMORY].count("the same") == len(METHODS)
    assert [d.why for d in found if d.figure == RUNTIME and d.why.startswith("dtype")] == [
        "dtype float32 → float64"
    ] * 2


def test_a_change_of_times_is_known_only_as_well_as_the_side_of_the_interval_that_it_moves_to():
    then, now = Estimate(53, 18, 2313), Estimate(700, 600, 820)
    assert _over(then, then).value == 1.0
    change = _over(then, now)
    assert change.low < 1 < change.high, "what was measured now is within what it may have been then"
    assert _over(now, then).high == pytest.approx(1 / change.low), "either way round it is the same"
    assert _over(Estimate(2, 1, 4), Estimate(2, 1, 4)).high == pytest.approx(2 ** math.sqrt(2))


def test_every_format_has_the_figures(tmp_path):
    run = timed(tmp_path)
    found = differences([run], [run])
    for format in ("table", "markdown", "json"):
        text = differences_as(format, found)
        assert METHODS[1] in text
        assert "the same" in text


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ({"arch": "nets/own.py:build"}, "own.build-d8-w512-b64"),
        ({"optimizer": "sgd:momentum=0.9", "memory_budget": 2**21}, "mlp-d8-w512-b64"),
    ],
)
def test_a_group_has_one_name_whatever_the_figure(tmp_path, own, name):
    whole, alone = replace(group(8), **own), replace(group(8), **own, batch=32)
    a, b = complete(tmp_path / "a", whole), complete(tmp_path / "b", alone)
    for one, other in ((a, a), (a, b), (b, a)):
        found = differences([one], [other])
        labels = {figure: {d.label for d in found if d.figure == figure} for figure in (RUNTIME, MEMORY)}
        assert labels[RUNTIME] <= labels[MEMORY], "of backprop there is no ratio"
        assert any(label.startswith(f"{name} {METHODS[1]}") for label in labels[RUNTIME])


def test_a_target_that_is_not_reached_any_more_is_said(tmp_path):
    a, b = complete(tmp_path / "a", group(8)), complete(tmp_path / "b", group(8))
    rows = b.read("targets")
    rows.loc[rows["method"] == METHODS[1], "outcome"] = "censored"
    b.replace("targets", rows.astype(object).where(rows.notna(), None).to_dict("records"))
    (lost,) = [
        d for d in differences([a], [b]) if d.figure == TIME_TO_TARGET and d.label.endswith(METHODS[1])
    ]
    assert (lost.words, lost.why) == ("not comparable", "no time to it in B")
