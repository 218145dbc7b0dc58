"""Charts of what a step costs at the least and of what it is worth: their points are the tables'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.charts import made_up
from tests.charts.conftest import Draw
from tests.charts.made_up import BANDWIDTH, FLOOR, FLOPS, LAYERS, METHODS, MOMENT, PEAK, group, r, ratio
from tests.charts.reading import line, words, x, y


def test_cosines_by_step_are_those_at_the_references_weights_and_dotted_at_the_own(
    tmp_path: Path, draw: Draw
) -> None:
    by_step, by_layer = draw("cosine_along_training", made_up.run(tmp_path, [group(8)])).axes
    for method in METHODS:
        assert x(by_step, method) == [0, 100, 200]
        assert y(by_step, method) == pytest.approx([made_up.cosine(method, place) for place in range(3)])
    own = [one for one in by_step.lines if one.get_linestyle() == ":" and list(one.get_xdata()) == [0, 50]]
    assert len(own) == 2, "of the two that are not the reference"
    drawn = [[float(v) for v in one.get_ydata()] for one in by_layer.lines]
    for method in METHODS:
        wanted = pytest.approx([made_up.cosine(method, place) for place in range(len(LAYERS))])
        assert any(values == wanted for values in drawn)


def test_bars_of_cosines_are_t_intervals_over_the_draws(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    rows = run.read("quality")
    rows["draws"], rows["cosine_error"] = 4, 0.01
    rows.loc[rows["method"] == METHODS[0], ["draws", "cosine_error"]] = 1, None
    run.replace("quality", rows.to_dict("records"))
    by_step, _ = draw("cosine_along_training", run).axes
    heights = [np.ptp(bar[:, 1]) for lines in by_step.collections for bar in lines.get_segments()]
    assert heights == pytest.approx([0] * 3 + [2 * 3.1824 * 0.01] * (len(heights) - 3), rel=1e-4)
    assert len(heights) > 6


def test_layers_are_counted_and_the_first_and_last_named(tmp_path: Path, draw: Draw) -> None:
    _, by_layer = draw("cosine_along_training", made_up.run(tmp_path, [group(8)])).axes
    assert by_layer.get_xlabel() == f"Layer (module {LAYERS[0]}\nto module {LAYERS[-1]})"
    assert [tick.get_text() for tick in by_layer.get_xticklabels()] == ["1", "2", "3"]


def test_variance_stands_against_r_with_the_line_that_no_method_beats(tmp_path: Path, draw: Draw) -> None:
    (ax,) = draw("variance_against_cost", made_up.run(tmp_path, [group(8)])).axes
    for method in METHODS:
        assert (x(ax, method), y(ax, method)) == ([pytest.approx(r(method, 8))], [MOMENT[method]])
    edge = line(ax, "no method is both cheaper and less noisy")
    # Rank-one is cheapest and backprop the least noisy; forward is beaten by both.
    assert list(edge.get_ydata()) == [MOMENT[METHODS[2]], MOMENT[METHODS[0]]]


def test_where_one_method_beats_all_there_is_no_such_line_nor_its_name(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    rows = run.read("quality")
    cheapest = rows["method"] == METHODS[2]
    for name in ("second_moment", "second_moment_large"):
        rows[name] = rows[name].mask(cheapest, 0.5)
    run.replace("quality", rows.to_dict("records"))
    assert "no method is both" not in words(draw("variance_against_cost", run))


def test_measured_over_floor_is_the_ratio_over_that_of_the_floors(tmp_path: Path, draw: Draw) -> None:
    (ax,) = draw("ratio_over_floor", made_up.run(tmp_path, [group(4), group(8)])).axes
    for method in METHODS[1:]:
        floor = FLOOR[method] / FLOOR[METHODS[0]]
        assert y(ax, method) == pytest.approx([ratio(method, depth) / floor for depth in (4, 8)])


def test_a_roofline_has_the_base_and_each_method_under_the_machines_roof(tmp_path: Path, draw: Draw) -> None:
    (ax,) = draw("roofline", made_up.run(tmp_path, [group(8)])).axes
    for name in ("base", *METHODS):
        seconds = (1.0 if name == "base" else r(name, 8)) / 100
        assert x(ax, name) == pytest.approx([FLOPS[name] / 100_000])
        assert y(ax, name) == pytest.approx([FLOPS[name] / seconds / 1e9])
    roof = line(ax, "roof")
    highest = max(float(v) for v in roof.get_ydata())
    ridge = [float(a) for a, b in zip(roof.get_xdata(), roof.get_ydata(), strict=True) if b == highest]
    assert (highest, ridge[0]) == (PEAK / 1e9, PEAK / BANDWIDTH)


@pytest.mark.parametrize(
    ("name", "half", "reason"),
    [
        ("cosine_along_training", {"trained": False}, "no estimates held against the gradient"),
        ("variance_against_cost", {"trained": False}, "no two methods with both a time and a variance"),
        ("variance_against_cost", {"timed": False}, "no two methods with both a time and a variance"),
        ("ratio_over_floor", {"timed": False}, "no ratio of another method than backprop with a floor"),
        ("roofline", {"timed": False}, "no FLOPs of timed steps"),
    ],
)
def test_without_its_figures_there_is_no_chart(
    tmp_path: Path, draw: Draw, name: str, half: dict[str, bool], reason: str
) -> None:
    assert draw(name, made_up.run(tmp_path, [group(8)], **half)) == reason  # type: ignore[arg-type]


def test_what_the_marks_are_is_said(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    assert "4 GFLOP/s" in words(draw("roofline", run))
    assert "at the method's own" in words(draw("cosine_along_training", run)).lower()
