"""The charts of training show the curves, the target and every T, those cut short included."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.charts import made_up
from tests.charts.conftest import Draw
from tests.charts.made_up import METHODS, SEEDS, TARGET, group
from tests.charts.reading import horizontal_lines, line, words, x, y

BACKPROP, FORWARD, RANK_ONE = METHODS


@pytest.fixture
def curves(tmp_path: Path, draw: Draw) -> Figure:
    return draw("loss_curves", made_up.run(tmp_path, [group(8)]))


@pytest.fixture
def times(tmp_path: Path, draw: Draw) -> Figure:
    return draw("time_to_target", made_up.run(tmp_path, [group(8)]))


def losses(method: str, evaluation: int) -> list[float]:
    found = [made_up.loss(method, seed, evaluation) for seed in SEEDS]
    return [math.inf if math.isnan(value) else value for value in found]


@pytest.mark.parametrize("method", METHODS)
def test_a_curve_is_the_median_over_seeds_with_a_diverged_one_as_infinite(
    curves: Figure, method: str
) -> None:
    seconds, iterations = curves.axes
    grid = range(made_up.EVALUATIONS + 1)
    expected = [float(np.median(losses(method, evaluation))) for evaluation in grid]
    assert y(iterations, method) == pytest.approx(expected)
    assert x(iterations, method) == [made_up.STEPS_BETWEEN * evaluation for evaluation in grid]
    assert x(seconds, method) == pytest.approx([made_up.seconds(method, evaluation) for evaluation in grid])
    assert y(seconds, method) == pytest.approx(expected)


def test_the_band_goes_from_the_lowest_seed_to_the_highest(curves: Figure) -> None:
    band = curves.axes[1].collections[METHODS.index(BACKPROP)].get_paths()[0].vertices
    at_the_end = [point[1] for point in band if point[0] == made_up.EVALUATIONS * made_up.STEPS_BETWEEN]
    ends = losses(BACKPROP, made_up.EVALUATIONS)
    assert (min(at_the_end), max(at_the_end)) == pytest.approx((min(ends), max(ends)))


def test_the_target_is_a_line_in_both_panels(curves: Figure) -> None:
    for ax in curves.axes:
        assert horizontal_lines(ax) == [TARGET]
        assert line(ax, "target 1").get_ydata()[0] == TARGET


def test_t_is_marked_on_the_target_at_the_expected_time(curves: Figure) -> None:
    rows = [made_up.target_row(group(8), BACKPROP, seed) for seed in SEEDS]
    for ax, column in zip(curves.axes, ("seconds", "iterations"), strict=True):
        assert x(ax, f"_T {BACKPROP}") == pytest.approx([sum(row[column] for row in rows) / len(SEEDS)])
        assert y(ax, f"_T {BACKPROP}") == [TARGET]


def test_a_diverged_run_ends_in_a_cross_at_its_last_finite_loss(curves: Figure) -> None:
    method, seed = made_up.DIVERGED
    last = made_up.EVALUATIONS // 2
    (cross,) = [one for one in curves.axes[1].lines if one.get_label() == "_diverged"]
    assert cross.get_marker() == "x"
    assert list(cross.get_xdata()) == [last * made_up.STEPS_BETWEEN]
    assert list(cross.get_ydata()) == pytest.approx([made_up.loss(method, seed, last)])
    assert "Diverged (×): forward in 1 of 3" in words(curves)


def test_a_loss_that_explodes_does_not_flatten_the_others(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    rows = run.read("curves")
    exploded = (rows["method"] == FORWARD) & (rows["iteration"] == 100)
    run.replace(
        "curves", rows.assign(validation_loss=rows["validation_loss"].mask(exploded, 1e17)).to_dict("records")
    )
    ax = draw("loss_curves", run).axes[0]
    assert ax.get_ylim()[1] < 10


def test_a_curve_ends_where_the_first_budget_does(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    rows = run.read("curves")
    slow = (rows["method"] == BACKPROP) & (rows["seed"] == 1) & (rows["iteration"] > 150)
    run.replace("curves", rows[~slow].to_dict("records"))
    assert x(draw("loss_curves", run).axes[1], BACKPROP)[-1] == 150


def test_expected_time_is_all_seconds_over_the_runs_that_reached_it(times: Figure) -> None:
    (ax,) = times.axes
    for place, method in enumerate(METHODS):
        rows = [made_up.target_row(group(8), method, seed) for seed in SEEDS]
        reached = sum(row["outcome"] == "reached" for row in rows)
        assert x(ax, method) == pytest.approx([sum(row["seconds"] for row in rows) / reached])
        assert y(ax, method) == [place]


def test_every_seed_is_a_mark_hollow_where_it_was_cut_short_and_a_cross_where_it_diverged(
    times: Figure,
) -> None:
    (ax,) = times.axes
    dots = {"_reached": [], "_censored": [], "_diverged": []}
    for one in ax.lines:
        if one.get_label() in dots:
            dots[str(one.get_label())] += list(one.get_xdata())
            hollow = one.get_markerfacecolor() == "white"
            assert hollow == (one.get_label() == "_censored")
            assert (one.get_marker() == "x") == (one.get_label() == "_diverged")
    for outcome, found in dots.items():
        rows = [made_up.target_row(group(8), method, seed) for method in METHODS for seed in SEEDS]
        assert found == pytest.approx([row["seconds"] for row in rows if row["outcome"] == outcome[1:]])


def test_the_reach_rate_stands_beside_every_time(times: Figure) -> None:
    assert words(times).count("3 of 3 reached") == 1
    assert words(times).count("2 of 3 reached") == 2


def test_it_is_said_what_the_interval_is_over(times: Figure) -> None:
    assert "95 % interval over seeds and where their evaluations fell" in words(times).replace("\n", " ")


def test_an_interval_that_goes_on_beyond_the_edge_is_told(tmp_path: Path, draw: Draw, times: Figure) -> None:
    """With few seeds, of which one never reached it, an interval may be hundreds of times as long."""
    assert "without an end mark goes on beyond the edge" in words(times).replace("\n", " ")
    alone = draw("time_to_target", made_up.run(tmp_path / "alone", [group(8)], methods=[BACKPROP]))
    assert "beyond the edge" not in words(alone)


def test_a_method_that_never_reached_it_has_no_expected_time(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    rows = run.read("targets")
    never = rows["method"] == FORWARD
    run.replace("targets", rows.assign(outcome=rows["outcome"].mask(never, "censored")).to_dict("records"))
    figure = draw("time_to_target", run)
    labels = [container.get_label() for container in figure.axes[0].containers]
    assert labels == [BACKPROP, RANK_ONE]
    assert "0 of 3 reached" in words(figure)


def test_every_depth_has_a_panel_with_its_own_target(tmp_path: Path, draw: Draw) -> None:
    figure = draw("time_to_target", made_up.run(tmp_path, [group(4), group(1)]))
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "depth 1, to validation loss 1",
        "depth 4, to validation loss 1",
    ]


def test_the_share_of_seeds_is_kaplan_and_meiers_and_censored_runs_are_ticks(
    tmp_path: Path, draw: Draw
) -> None:
    (ax,) = draw("reached_by_time", made_up.run(tmp_path, [group(8)])).axes
    assert y(ax, BACKPROP)[0] == 0.0
    assert y(ax, BACKPROP)[-1] == pytest.approx(1.0), "all of backprop's seeds reach it"
    method, seed = made_up.CENSORED
    rows = [made_up.target_row(group(8), method, s) for s in SEEDS]
    assert y(ax, method)[-1] < 1
    assert x(ax, f"_ended {method}") == [row["seconds"] for row in rows if row["seed"] == seed]
    reached = sorted(row["seconds"] for row in rows if row["seed"] != seed)
    assert x(ax, method)[1:3] == pytest.approx(reached)
    assert y(ax, method)[1:3] == pytest.approx([1 / 3, 2 / 3])


def test_a_diverged_run_never_reaches_it_and_is_a_cross_where_it_ended(tmp_path: Path, draw: Draw) -> None:
    """Two of forward's seeds get there after the third diverged: two of three, not all that are left."""
    (ax,) = draw("reached_by_time", made_up.run(tmp_path, [group(8)])).axes
    method, seed = made_up.DIVERGED
    (row,) = (made_up.target_row(group(8), method, s) for s in SEEDS if s == seed)
    assert x(ax, f"_never {method}") == [row["seconds"]]
    assert y(ax, f"_never {method}") == [0.0]
    assert y(ax, method)[-1] == pytest.approx(2 / 3)
    assert x(ax, f"_ended {method}") == []


def test_where_no_seed_reached_it_there_is_no_chart_of_who_did(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    run.replace("targets", run.read("targets").assign(outcome="censored").to_dict("records"))
    assert draw("reached_by_time", run) == "no seed reached the target"


def test_every_trial_is_drawn_and_the_chosen_one_ringed(tmp_path: Path, draw: Draw) -> None:
    (ax,) = draw("learning_rate_search", made_up.run(tmp_path, [group(8)])).axes
    for method in METHODS:
        assert x(ax, method) == list(made_up.RATES)
        assert x(ax, f"_chosen {method}") == [made_up.CHOSEN[method]]
        losses = y(ax, method)
        assert losses[:2] == [1.5, 1.5]
        assert losses[2] == pytest.approx(1.1 * made_up.loss(BACKPROP, 1, 0)), "diverged: at the upper edge"


def test_what_fainter_trials_are_is_said_where_there_are_any(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    assert "Fainter" not in words(draw("learning_rate_search", run))
    run.replace("search", run.read("search").assign(optimizer="sgd").to_dict("records"))
    run.append("search", {**made_up.search_row(group(8), FORWARD, 0.1), "optimizer": "adam"})
    assert "Fainter: with another optimiser" in words(draw("learning_rate_search", run)).replace("\n", " ")


def test_a_profile_is_the_share_of_targets_within_a_factor_of_the_fastest(tmp_path: Path, draw: Draw) -> None:
    targets = (2.0, 1.0, 0.8)
    (ax,) = draw("performance_profile", made_up.run(tmp_path, [group(8)], targets=targets)).axes

    def expected(method: str, target: float) -> float:
        rows = [made_up.target_row(group(8), method, seed, target) for seed in SEEDS]
        hits = sum(row["outcome"] == "reached" for row in rows)
        return sum(row["seconds"] for row in rows) / hits if hits else math.inf

    for method in METHODS:
        factors = sorted(expected(method, t) / min(expected(m, t) for m in METHODS) for t in targets)
        reached = [f for f in factors if math.isfinite(f)]
        assert x(ax, method)[1:-1] == pytest.approx(reached)
        assert y(ax, method)[1:-1] == pytest.approx([(i + 1) / 3 for i in range(len(reached))])


def test_a_profile_of_few_targets_is_none(tmp_path: Path, draw: Draw) -> None:
    assert str(draw("performance_profile", made_up.run(tmp_path, [group(8)]))).startswith("fewer than 3")


@pytest.mark.parametrize("name", ["time_to_target", "reached_by_time", "loss_curves"])
def test_targets_that_are_not_drawn_are_said_to_be_elsewhere(name: str, tmp_path: Path, draw: Draw) -> None:
    def said(number: int, *targets: float) -> str:
        run = made_up.run(tmp_path / str(number), [group(8)], targets=targets)
        return words(draw(name, run)).replace("\n", " ")

    assert "targets.csv" not in said(1, TARGET)
    assert "The other target, validation loss 2, is in targets.csv." in said(2, 2.0, TARGET)
    assert "2 other targets are in targets.csv." in said(3, 2.0, TARGET, 0.001)


def test_the_headline_target_is_the_one_drawn(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)], targets=(2.0, 1.0, 0.001))
    assert "validation loss 1" in words(draw("time_to_target", run))
