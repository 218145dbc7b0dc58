"""Verdicts: what an interval says of a paper's value, of a bound and of another figure."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fgbench.charts.drawing.style import print_style, save
from fgbench.measurement.statistics import NOTHING, Estimate, mean_interval
from fgbench.reproduction import report
from fgbench.reproduction.claims import Verdict, judge, lacking
from fgbench.reproduction.report import _figure, draw_claims, rows_of
from fgbench.reproduction.suite import Claim, Experiment

YES, NO, OPEN = Verdict.REPRODUCED, Verdict.NOT_REPRODUCED, Verdict.NOT_COMPARABLE


def claim(test: str, **more) -> Claim:
    figure = more.pop("figure", "figure")
    return Claim("a claim", "a table", figure, test, "R" if more.get("value") is not None else "", **more)


def verdict(claim: Claim, measured: Estimate, scale: str = "laptop", **others: Estimate) -> Verdict:
    return judge(claim, {"figure": measured, **others}, scale).verdict


def test_a_time_that_a_single_seed_decides_decides_nothing():
    """As where one of five seeds reached the target: its jackknife has no interval."""
    for name, expected in (("run/group/forward/t_ratio", OPEN), ("run/group/forward/peak_bytes", NO)):
        own = Claim("a claim", "a table", name, "near", "R", value=0.5)
        assert judge(own, {name: Estimate(3.27)}, "laptop").verdict is expected
    own = Claim("a claim", "a table", "run/group/forward/t_ratio", "below", bound=1.0)
    assert judge(own, {own.figure: Estimate(3.27)}, "laptop").verdict is OPEN


@pytest.mark.parametrize(
    ("figure", "open_"),
    [
        *((name, True) for name in ("validation_loss", "lowest_loss", "rise", "validation_accuracy")),
        *((name, False) for name in ("peak_bytes", "flop_ratio", "learning_rate", "diverged_share", "final")),
    ],
)
def test_a_loss_of_a_single_seed_decides_nothing_and_what_is_exact_does(figure, open_):
    one, other = (f"run/group/{method}/{figure}" for method in ("forward", "backprop"))
    alone, sure = Estimate(0.5), Estimate(1.0, 0.9, 1.1)
    for asked, figures in (
        (Claim("a claim", "a table", one, "near", "R", value=0.5), {one: alone}),
        (Claim("a claim", "a table", one, "below", bound=1.0), {one: alone}),
        (Claim("a claim", "a table", one, "below", than=other), {one: alone, other: sure}),
        (Claim("a claim", "a table", other, "above", than=one), {one: alone, other: sure}),
    ):
        found = judge(asked, figures, "laptop")
        assert found.verdict is (OPEN if open_ else YES)
        assert ("it takes more" in found.why) is open_
    assert (
        judge(Claim("a claim", "a table", other, "above", bound=0.5), {other: sure}, "laptop").verdict is YES
    )


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (Estimate(0.5, 0.48, 0.52), YES),
        (Estimate(0.5), YES),
        (Estimate(0.6, 0.56, 0.64), NO),
        (Estimate(0.4, 0.36, 0.44), NO),
        (Estimate(0.5, 0.3, 0.7), OPEN),
        (Estimate(math.nan), OPEN),
    ],
)
def test_near_needs_the_whole_interval_within_the_tolerance(measured, expected):
    assert verdict(claim("near", value=0.5), measured) is expected


def test_what_is_near_is_told_of_whom_and_of_which_end():
    """A value that we computed is not the paper's, and a narrow interval may lie across the end."""
    own = claim("near", value=0.5)
    for mark, whose in (("R", "the paper's"), ("C", "the computed value")):
        found = judge(replace(own, mark=mark), {"figure": Estimate(3.27)}, "laptop")
        assert found.why == f"beyond 10% of {whose}"
    across = judge(own, {"figure": Estimate(0.55, 0.549, 0.551)}, "laptop")
    assert (across.verdict, across.why) == (OPEN, "the interval reaches beyond the tolerance: measure longer")


def test_a_tolerance_is_told_with_the_digits_that_it_has():
    for tolerance, said in ((0.1, "beyond 10% of"), (0.001, "beyond 0.1% of"), (0.07, "beyond 7% of")):
        own = claim("near", value=0.5, tolerance=tolerance)
        assert said in judge(own, {own.figure: Estimate(3.27)}, "laptop").why


@pytest.mark.parametrize(
    ("measured", "below"),
    [
        (Estimate(0.9, 0.8, 0.99), YES),
        (Estimate(1.2, 1.01, 1.4), NO),
        (Estimate(0.9, 0.8, 1.1), OPEN),
        (Estimate(0.9), YES),
    ],
)
def test_a_bound_needs_the_whole_interval_on_one_side(measured, below):
    assert verdict(claim("below"), measured) is below
    assert verdict(claim("above"), measured) is {YES: NO, NO: YES, OPEN: OPEN}[below]


def test_what_is_undecided_says_what_it_was_compared_with():
    wide = Estimate(0.9, 0.8, 1.1)
    assert judge(claim("below", bound=1.0), {"figure": wide}, "laptop").why.startswith(
        "the interval contains 1"
    )
    both = {"figure": wide, "other": Estimate(1, 0.9, 1.2)}
    assert judge(claim("below", than="other"), both, "laptop").why.startswith("the intervals overlap")


def test_a_figure_that_is_exactly_the_bound_is_not_beyond_it():
    never = judge(claim("above", bound=0.0), {"figure": Estimate(0.0, 0.0, 0.0)}, "laptop")
    assert (never.verdict, never.why) == (NO, "it is 0")
    same = {"figure": Estimate(2.0), "other": Estimate(2.0)}
    assert judge(claim("above", than="other"), same, "laptop").why == "they are equal"


@pytest.mark.parametrize(
    ("last", "more"),
    [
        ("ratio", "measure longer"),
        ("validation_loss", "it takes more seeds"),
        ("best", "it takes more seeds"),
    ],
)
def test_what_would_decide_depends_on_what_the_interval_is_over(last, more):
    figures = {f"a/{last}": Estimate(0.9, 0.8, 1.1)}
    for test, value in (("near", 1.0), ("below", None)):
        found = judge(claim(test, value=value, figure=f"a/{last}", tolerance=0.05), figures, "laptop")
        assert (found.verdict, found.why.endswith(f": {more}")) == (OPEN, True), found.why


def test_a_time_without_an_upper_end_needs_longer_runs():
    never = {"a/t_ratio": Estimate(math.inf, 0.2, math.inf)}
    for test, value in (("near", 0.5), ("above", None)):
        found = judge(claim(test, value=value, figure="a/t_ratio"), never, "laptop")
        assert found.verdict is OPEN
        assert found.why.endswith(": no run of it reached the target, and each takes longer than it had")


def test_a_method_whose_loss_did_not_leave_its_start_decides_nothing():
    """A run of seconds at a tiny rate stands still, whatever the method could do in hours."""
    asked = claim("below", figure="g/backprop/validation_loss", than="g/forward/validation_loss")
    figures = {
        "g/backprop/validation_loss": Estimate(2.28, 2.26, 2.29),
        "g/backprop/lowest_loss": Estimate(2.28),
        "g/backprop/fall": Estimate(0.06),
        "g/forward/validation_loss": Estimate(2.34, 2.339, 2.341),
        "g/forward/lowest_loss": Estimate(2.34),
        "g/forward/fall": Estimate(4e-7),
    }
    still = judge(asked, figures, "laptop")
    assert still.verdict is OPEN
    assert still.why == "in runs as short as these the loss of forward does not leave its start"
    sooner, never = claim("above", figure="g/forward/t_ratio"), Estimate(math.inf, 1.4, math.inf)
    assert judge(sooner, {**figures, "g/forward/t_ratio": never}, "laptop").why == still.why
    ratio = {**figures, "g/forward/ratio": Estimate(1.5, 1.4, 1.6)}
    assert judge(claim("above", figure="g/forward/ratio"), ratio, "laptop").verdict is YES, "a step is a step"
    moved = {**figures, "g/forward/fall": Estimate(0.01)}
    assert judge(asked, moved, "laptop").verdict is YES


def test_a_figure_may_be_the_bound():
    asked = claim("below", than="other")
    assert verdict(asked, Estimate(1, 0.9, 1.1), other=Estimate(2, 1.5, 2.5)) is YES
    assert verdict(asked, Estimate(1, 0.9, 1.6), other=Estimate(2, 1.5, 2.5)) is OPEN
    assert verdict(asked, Estimate(3, 2.9, 3.1), other=Estimate(2, 1.5, 2.5)) is NO
    assert verdict(asked, Estimate(1, 0.9, 1.1)) is OPEN
    both = judge(asked, {"figure": Estimate(1, 0.9, 1.1), "other": Estimate(2, 1.5, 2.5)}, "laptop")
    assert rows_of([both])[0][2] == "1.00 [0.90, 1.10] against 2.00 [1.50, 2.50]"


def test_smoke_decides_nothing_and_a_small_scale_not_what_needs_a_large_one():
    asked = claim("near", value=1.0, needs="full", why="days of training")
    assert verdict(claim("near", value=1.0), Estimate(1.0), "smoke") is OPEN
    small = judge(asked, {"figure": Estimate(1.0)}, "laptop")
    assert (small.verdict, small.why) == (OPEN, "days of training")
    assert judge(asked, {}, "paper", "about 3 h").why == "days of training: about 3 h"
    assert judge(claim("near", value=1.0, needs="paper"), {}, "laptop").why == "needs --scale paper"
    assert verdict(asked, Estimate(1.0), "full", other=Estimate(1.0)) is YES
    assert verdict(claim("none", why="another machine"), Estimate(1.0), "full") is OPEN


def test_an_infinite_figure_is_not_below_anything():
    assert verdict(claim("below"), Estimate(math.inf)) is NO


@pytest.mark.parametrize(("least", "above"), [(9.1, YES), (0.4, OPEN)])
def test_a_time_that_no_run_was_long_enough_for_is_judged_by_its_lower_end(least, above):
    never = Estimate(math.inf, least, math.inf)
    assert verdict(claim("above"), never) is above
    assert verdict(claim("below"), never) is {YES: NO, OPEN: OPEN}[above]
    assert verdict(claim("near", value=1.0), never) is {YES: NO, OPEN: OPEN}[above]


def test_that_every_run_diverged_is_no_time_to_be_above_something():
    diverged = Estimate(math.inf, math.nan, math.nan)
    assert verdict(claim("above"), diverged) is OPEN
    assert verdict(claim("near", value=1.0), diverged) is NO
    assert verdict(claim("below", than="other"), Estimate(1, 0.9, 1.1), other=diverged) is OPEN


def test_numbers_that_cannot_be_compared_are_not_drawn_one_over_the_other(tmp_path):
    """As an accuracy, and by how much accuracies differ."""
    experiment = Experiment("apart", "Two kinds of number", "jobs", {}, ())
    asked = claim("none", value=0.3, why="it is another quantity"), claim("near", value=0.3)
    drawn = [
        draw_claims(experiment, [judge(one, {"figure": Estimate(0.25)}, "laptop")], "a paper", tmp_path)
        for one in asked
    ]
    assert [len(paths) for paths in drawn] == [0, 1]


@pytest.mark.parametrize(
    ("found", "dots", "said"),
    [
        (Estimate(6.0, 5.0, 7.0), [2.0], "6.0 / 3  not reproduced"),
        (Estimate(math.inf, 9.0, math.inf), [3.0], "> 9.00 / 3  not reproduced"),
        (Estimate(math.inf), [], "∞ / 3  not reproduced"),
    ],
)
def test_a_figure_that_no_run_was_long_enough_for_is_drawn_from_its_lower_end(found, dots, said):
    outcome = judge(claim("near", value=3.0), {"figure": found}, "laptop")
    (ax,) = _figure(Experiment("apart", "A time", "jobs", {}, ()), [outcome], "a paper").axes
    marks = [x for line in ax.lines if line.get_marker() in ("o", ">") for x in line.get_xdata()]
    assert marks == dots
    assert said in [text.get_text() for text in ax.texts]


def test_losses_no_better_than_chance_decide_nothing():
    stem, than = "run/group/forward", "run/group/backprop/validation_loss"
    own = Claim("a claim", "a table", f"{stem}/validation_loss", "below", than=than)

    def found(loss: float, other: float, asked: Claim = own):
        figures = {own.figure: mean_interval([loss, loss + 0.01]), than: mean_interval([other, other + 0.01])}
        return judge(asked, {**figures, f"{stem}/chance_loss": Estimate(2.303)}, "laptop")

    nothing = found(2.31, 2.41)
    assert nothing.verdict is OPEN
    assert "no loss is below chance, 2.3" in nothing.why
    assert found(2.2, 2.41).verdict is YES
    assert found(2.41, 2.2).verdict is NO
    assert found(2.31, 2.41, replace(own, than="", bound=2.5)).verdict is YES, "a bound is no other run's"


def test_a_loss_of_which_runs_diverged_was_measured_and_has_no_mean():
    one, other = (f"run/group/{method}/validation_loss" for method in ("forward", "backprop"))
    figures = {other: Estimate(0.5, 0.4, 0.6), "run/group/forward/diverged_share": Estimate(1 / 3)}
    for asked, named in (
        (Claim("a claim", "a table", one, "below", than=other), "it"),
        (Claim("a claim", "a table", other, "below", than=one), one),
    ):
        found = judge(asked, figures, "laptop")
        assert found.verdict is OPEN
        assert found.why == f"33% of the runs diverged: {named} has no mean over all of them"
        assert judge(asked, {other: figures[other]}, "laptop").why == f"nothing was measured for {named}"


PAIRED = Claim("a claim", "a table", "a", "below", than="b")


def test_what_a_claim_lacks_is_named_with_what_it_would_take():
    both = {"a": Estimate(1.0), "b": Estimate(2.0)}
    for figures, lacks in ((both, ""), ({}, "a"), ({"a": both["a"]}, "b"), ({**both, "a": NOTHING}, "a")):
        assert lacking(PAIRED, figures, "paper") == lacks
    assert lacking(replace(PAIRED, needs="full"), both, "paper") == "a", (
        "whatever a smaller scale gave for it"
    )
    assert lacking(replace(PAIRED, test="none"), {}, "paper") == "", "nothing can decide it"
    found = judge(PAIRED, {"a": both["a"]}, "paper", "about 3 h on 1 thread of a machine")
    assert found.why == "nothing was measured for b: about 3 h on 1 thread of a machine"


def test_figures_of_matched_runs_are_compared_seed_by_seed():
    """Seeds differ by more than the methods, and that cancels."""
    own, other = {0: 0.50, 1: 0.70, 2: 0.90}, {0: 0.60, 1: 0.81, 2: 0.99}
    figures = {"a": mean_interval(list(own.values())), "b": mean_interval(list(other.values()))}
    assert judge(PAIRED, figures, "laptop").verdict is OPEN
    found = judge(PAIRED, figures, "laptop", by_seed={"a": own, "b": other})
    assert found.verdict is YES
    assert found.difference == mean_interval([own[seed] - other[seed] for seed in own])
    assert rows_of([found])[0][2].endswith("; difference by seed -0.100 [-0.125, -0.075]")
    turned = judge(replace(PAIRED, test="above"), figures, "laptop", by_seed={"a": own, "b": other})
    assert (turned.verdict, turned.why) == (NO, "the other way round")


def test_seeds_that_contradict_each_other_decide_nothing():
    """Although the means lie beyond each other's intervals, and whichever seeds a method lacks."""
    own, other = {0: 0.5, 1: 0.5, 2: 0.5}, {0: 0.9, 1: 0.6, 2: 0.45}
    figures = {"a": Estimate(0.5, 0.4, 0.6), "b": Estimate(0.65, 0.61, 0.7)}
    found = judge(PAIRED, figures, "laptop", by_seed={"a": own, "b": other})
    assert found.verdict is OPEN
    assert "seeds differ too much" in found.why
    alone = judge(PAIRED, figures, "laptop", by_seed={"a": own, "b": {2: 0.45, 3: 0.5}})
    assert alone.verdict is OPEN
    assert "a single seed has both" in alone.why
    assert judge(PAIRED, figures, "laptop", by_seed={"a": own}).verdict is YES, "one that has no seeds"


def test_ticks_of_a_narrow_axis_of_claims_are_few():
    """Texts at both sides may leave an inch of width: from 0.3 to 4 nine ticks would lie on each other."""
    long = claim("near", value=1.0)
    own = [replace(long, text="peak memory at depth 100, forward gradient, bytes", figure=f) for f in "ab"]
    judged = [judge(one, {"a": Estimate(0.3), "b": Estimate(4.0)}, "laptop") for one in own]
    figure = report._figure(Experiment("wide", "Far apart", "jobs", {}, ()), judged, "a paper")
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0.5", "1", "2"]


def test_long_texts_of_claims_are_folded_into_the_chart(tmp_path):
    long = "at 2e-4 a forward gradient needs 0.383 of backprop's steps, with pixels of mean 0 and variance 1"
    outcome = judge(
        replace(claim("near", value=3.0), text=long), {"figure": Estimate(6.0, 5.0, 7.0)}, "laptop"
    )
    with print_style():
        figure = _figure(Experiment("apart", "A time", "jobs", {}, ()), [outcome] * 6, "a paper")
        save(figure, tmp_path / "claims.png")
    (ax,) = figure.axes
    inside = figure.bbox
    for text in (*ax.get_yticklabels(), *ax.texts):
        extent = text.get_window_extent()
        assert inside.x0 <= extent.x0 and extent.x1 <= inside.x1, text.get_text()
