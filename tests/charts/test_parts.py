"""The chart of a step's parts, and that of memory beyond the parameters."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.charts import made_up
from tests.charts.conftest import Draw
from tests.charts.made_up import METHODS, group, r
from tests.charts.reading import y


def test_bars_of_a_method_add_up_to_its_r(tmp_path: Path, draw: Draw) -> None:
    figure = draw("parts_of_a_step", made_up.run(tmp_path, [group(8)]))
    (ax,) = figure.axes
    for place, method in enumerate(METHODS):
        widths = [p.get_width() for p in ax.patches if abs(p.get_y() + p.get_height() / 2 - place) < 0.1]
        assert sum(widths) == pytest.approx(r(method, 8))
        assert max(widths) == pytest.approx(r(method, 8) / 2)


def test_how_well_the_parts_add_up_is_said(tmp_path: Path, draw: Draw) -> None:
    figure = draw("parts_of_a_step", made_up.run(tmp_path, [group(8)]))
    assert any("within 2.0%" in text.get_text() for text in figure.texts)


def test_legend_names_the_parts_that_there_are(tmp_path: Path, draw: Draw) -> None:
    figure = draw("parts_of_a_step", made_up.run(tmp_path, [group(8)]))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["draw", "forward", "backward", "update"]


def test_a_run_without_parts_has_no_such_chart(tmp_path: Path, draw: Draw) -> None:
    assert draw("parts_of_a_step", made_up.run(tmp_path, [group(8)], timed=False)) == "no timing of parts"


def test_a_method_whose_r_is_not_finite_has_no_bar(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    for lost, left in ((METHODS[:1], METHODS[1:]), (METHODS, ())):
        rows = run.read("ratios").astype(object)
        rows.loc[rows["method"].isin(lost), "r"] = math.inf
        run.replace("ratios", rows.where(rows.notna(), None).to_dict("records"))
        figure = draw("parts_of_a_step", run)
        drawn = [] if isinstance(figure, str) else [t.get_text() for t in figure.axes[0].get_yticklabels()]
        assert [name.replace("\n", ":") for name in drawn] == list(left)


def test_bars_of_memory_are_its_kinds_and_add_up_to_the_peak(tmp_path: Path, draw: Draw) -> None:
    figure = draw("memory_by_kind", made_up.run(tmp_path, [group(8)]))
    (ax,) = figure.axes
    for place, method in enumerate(METHODS):
        widths = [p.get_width() for p in ax.patches if abs(p.get_y() + p.get_height() / 2 - place) < 0.1]
        peak = made_up.peak_bytes(method, 8) / 2**20
        assert sum(widths) == pytest.approx(peak, rel=1e-6)
        assert max(widths) == pytest.approx(made_up.KINDS["activations_and_temporaries"] * peak, rel=1e-6)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["parameters", "gradients and tangents", "activations and temporaries"]


def test_energy_is_the_table_s(tmp_path: Path, draw: Draw) -> None:
    figure = draw("energy", made_up.run(tmp_path, [group(4), group(8)]))
    for method in METHODS:
        assert y(figure.axes[0], method) == pytest.approx([made_up.joules(method, d) for d in (4, 8)])
    (ax,) = draw("energy", made_up.run(tmp_path / "one", [group(8)])).axes
    assert [p.get_width() for p in ax.patches] == pytest.approx([made_up.joules(m, 8) for m in METHODS])


def test_without_a_gauge_there_is_no_chart_of_energy(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)])
    rows = run.read("ratios").drop(columns="joules").astype(object)
    run.replace("ratios", rows.where(rows.notna(), None).to_dict("records"))
    assert str(draw("energy", run)).startswith("no energy")


def test_memory_beyond_the_parameters(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(4), group(8)])
    memory = run.read("memory")
    bytes_of = memory.set_index(["group", "method", "kind"])["bytes"]
    figure = draw("activations_by_depth", run)
    drawn = y(figure.axes[0], METHODS[1])
    wanted = [
        bytes_of[g.name, METHODS[1], "peak_allocated"] - bytes_of[g.name, "base", "parameters"]
        for g in (group(4), group(8))
    ]
    assert drawn[1] / drawn[0] == pytest.approx(wanted[1] / wanted[0])


def test_one_depth_shows_no_growth(tmp_path: Path, draw: Draw) -> None:
    assert draw("activations_by_depth", made_up.run(tmp_path, [group(8)])) == "one depth only"
