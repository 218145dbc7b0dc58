"""The charts by depth show the figures of the tables, no others, and the lines to read them by."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from fgbench.charts.drawing import baydin
from fgbench.charts.drawing.parts import MOST_TICKS, NAME_LINE_INCHES, ROW_INCHES, log_axis, row_inches
from tests.charts import made_up
from tests.charts.conftest import Draw
from tests.charts.made_up import METHODS, group
from tests.charts.reading import horizontal_lines, interval_ends, vertical_lines, words, x, y

DEPTHS = [1, 4, 16]
OTHERS = METHODS[1:]


def many(root: Path, **changes: object):
    return made_up.run(root, [group(depth, **changes) for depth in DEPTHS])


@pytest.mark.parametrize("method", OTHERS)
def test_the_ratio_is_the_table_s_with_its_interval(tmp_path: Path, draw: Draw, method: str) -> None:
    (ax,) = draw("ratio_by_depth", many(tmp_path)).axes
    expected = [made_up.ratio(method, depth) for depth in DEPTHS]
    assert x(ax, method) == DEPTHS
    assert y(ax, method) == pytest.approx(expected)
    low, high = interval_ends(ax, method)
    assert low == pytest.approx([0.9 * value for value in expected])
    assert high == pytest.approx([1.1 * value for value in expected])


def test_the_ratio_has_a_line_at_one_that_says_what_it_is(tmp_path: Path, draw: Draw) -> None:
    figure = draw("ratio_by_depth", many(tmp_path))
    assert horizontal_lines(figure.axes[0]) == [1.0]
    assert "as fast as\nbackprop" in words(figure)


def test_the_reference_has_no_line_of_ratios_to_itself(tmp_path: Path, draw: Draw) -> None:
    (ax,) = draw("ratio_by_depth", many(tmp_path)).axes
    assert METHODS[0] not in ax.get_legend_handles_labels()[1]


def test_the_paper_s_curve_stands_beside_the_paper_s_model(tmp_path: Path, draw: Draw) -> None:
    (ax,) = draw("ratio_by_depth", many(tmp_path, width=1024)).axes
    (label,) = [text for text in ax.get_legend_handles_labels()[1] if "Baydin" in text]
    assert "Baydin et al. 2022, Fig. 6 (digitised)" in label
    assert y(ax, label) == list(baydin.RATIO)


@pytest.mark.parametrize("changes", [{"width": 512}, {"arch": "cnn", "width": 1024}])
def test_it_does_not_stand_beside_another(tmp_path: Path, draw: Draw, changes: dict) -> None:
    assert "Baydin" not in words(draw("ratio_by_depth", many(tmp_path, **changes)))
    assert "Baydin" not in words(draw("runtimes", many(tmp_path / "2", **changes)))


def test_the_digitised_ratio_is_r_forward_over_r_backprop() -> None:
    for forward, backprop, ratio in zip(baydin.R_FORWARD, baydin.R_BACKPROP, baydin.RATIO, strict=True):
        assert forward / backprop == pytest.approx(ratio, abs=0.006)


@pytest.mark.parametrize("method", METHODS)
def test_r_is_the_table_s_and_base_is_at_one(tmp_path: Path, draw: Draw, method: str) -> None:
    figure = draw("runtimes", many(tmp_path))
    (ax,) = figure.axes
    assert y(ax, method) == pytest.approx([made_up.r(method, depth) for depth in DEPTHS])
    assert horizontal_lines(ax) == [1.0]
    assert "base" in words(figure).split("\n")


@pytest.mark.parametrize("method", METHODS)
def test_memory_is_the_table_s_in_mebibytes(tmp_path: Path, draw: Draw, method: str) -> None:
    (ax,) = draw("memory_by_depth", many(tmp_path)).axes
    assert y(ax, method) == pytest.approx([made_up.peak_bytes(method, d) / 2**20 for d in DEPTHS])
    assert y(ax, "parameters alone") == pytest.approx([made_up.parameter_bytes(d) / 2**20 for d in DEPTHS])
    assert "MiB" in ax.get_ylabel()


@pytest.mark.parametrize(
    ("name", "value", "line"), [("ratio_by_depth", made_up.ratio, 1.0), ("runtimes", made_up.r, 1.0)]
)
def test_a_single_depth_is_rows_with_their_figures(
    tmp_path: Path, draw: Draw, name: str, value: object, line: float
) -> None:
    figure = draw(name, made_up.run(tmp_path, [group(8)]))
    (ax,) = figure.axes
    for method in OTHERS:
        assert x(ax, method) == pytest.approx([value(method, 8)])  # type: ignore[operator]
    assert vertical_lines(ax) == [line]
    assert "forward\nstructure=rank-one" in words(figure)


def test_figures_of_one_depth_beside_the_paper_s_curve_are_in_the_legend(tmp_path: Path, draw: Draw) -> None:
    """Beside the points they would lie on each other where two methods take about as long."""
    (ax,) = draw("ratio_by_depth", made_up.run(tmp_path, [group(8, width=1024)])).axes
    for method in OTHERS:
        (label,) = [t for t in ax.get_legend_handles_labels()[1] if t.startswith(f"{method}  ")]
        assert f"  {made_up.ratio(method, 8):.2f}" in label
        assert x(ax, label) == [8]
    assert [text.get_text() for text in ax.texts] == ["as fast as\nbackprop"]


@pytest.mark.parametrize("values", [(22.0, 27.0), (0.92, 1.15), (1.0, 1.3), (0.02, 0.03), (1.0, 900.0)])
def test_a_logarithmic_axis_has_numbers_to_read_it_by_however_short_it_is(values: tuple[float, ...]) -> None:
    ax = Figure().subplots()
    log_axis(ax, "x", values)
    low, high = ax.get_xlim()
    assert 3 <= sum(low <= tick <= high for tick in ax.get_xticks()) <= MOST_TICKS


def test_names_of_many_lines_do_not_run_into_each_other() -> None:
    long = "local-guess:target=local,guess=fixed-ntk,space=activation"
    assert row_inches(["backprop", "forward"]) == ROW_INCHES
    for methods in (["backprop", long, long], ["backprop", long]):
        assert row_inches(methods) >= 4 * NAME_LINE_INCHES
    assert row_inches(["backprop", long, "forward"]) == ROW_INCHES, "there is room to both sides"


def test_memory_of_a_single_depth_is_bars_from_zero(tmp_path: Path, draw: Draw) -> None:
    (ax,) = draw("memory_by_depth", made_up.run(tmp_path, [group(8)])).axes
    widths = [bar.get_width() for container in ax.containers for bar in container.patches]
    assert widths == pytest.approx([made_up.peak_bytes(method, 8) / 2**20 for method in METHODS])
    assert ax.get_xlim()[0] == 0
    assert vertical_lines(ax) == [made_up.parameter_bytes(8) / 2**20]


def test_a_method_that_failed_is_named_and_not_drawn_as_nought(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)], trained=False)
    ratios = run.read("ratios")
    run.replace("ratios", ratios[ratios["method"] != METHODS[1]].to_dict("records"))
    run.append("jobs", {**made_up.job_row(group(8), METHODS[1], 1), "phase": "time", "status": "oom"})
    shown = words(draw("runtimes", run))
    assert "not measured" in shown
    assert "forward at depth 8 (1 oom)" in shown


def test_what_was_compared_on_what_is_in_the_title(tmp_path: Path, draw: Draw) -> None:
    for name in ("ratio_by_depth", "runtimes", "memory_by_depth"):
        shown = words(draw(name, many(tmp_path / name)))
        assert "mlp, width 512, batch 64 · digits · float32 · a processor, 2 threads · torch 2.0" in shown


def test_intervals_say_on_how_many_processes_they_rest(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    assert "over 5 processes" in words(draw("runtimes", run))
    run.replace("ratios", run.read("ratios").assign(processes=1).to_dict("records"))
    assert "ONE process" in words(draw("runtimes", run))
