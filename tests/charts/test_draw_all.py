"""All charts of a folder: what is written, what is left out and why, and what is never merged."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from fgbench import charts
from fgbench.charts.drawing.comparison import comparisons
from fgbench.charts.drawing.style import BLUE, LETTERS_A_LINE, looks_of, new_figure
from fgbench.errors import ResultsError, UsageError
from fgbench.store.run_folder import RunFolder
from tests.charts import made_up
from tests.charts.conftest import Draw
from tests.charts.made_up import METHODS, group
from tests.charts.reading import colour

NAMES = (
    *("activations_by_depth", "cosine_along_training", "energy", "learning_rate_search", "loss_curves"),
    *("memory_by_depth", "memory_by_kind", "parts_of_a_step", "performance_profile", "ratio_by_depth"),
    *("ratio_over_floor", "reached_by_time", "roofline", "runtimes", "time_against_memory"),
    *("time_to_target", "variance_against_cost"),
)
UNDER_A_BUDGET = "time_against_memory"  # of a run that had one

OF_WORTH = ("cosine_along_training", "variance_against_cost")
TARGETS = (2.0, 1.0, 0.8)


def test_charts_are_found_by_being_there() -> None:
    assert charts.names() == NAMES
    assert all(isinstance(charts.find(name), charts.Chart) for name in NAMES)


@pytest.mark.filterwarnings("error")  # as matplotlib warns where a layout does not fit
@pytest.mark.parametrize("format", charts.FORMATS)
def test_every_chart_is_a_file_of_the_format(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is in a chart does not depend on the format: of the others, lines and tables of bars.
    drawn_here = tuple(name for name in NAMES if name != UNDER_A_BUDGET)
    names = drawn_here if format == "png" else ("loss_curves", "memory_by_kind")
    monkeypatch.setattr(charts, "names", lambda: names)
    made_up.run(tmp_path / "results", [group(8), group(16)], targets=TARGETS)
    drawn = charts.draw_all(tmp_path / "results", tmp_path / "out", format)
    assert list(dict.fromkeys(one.chart for one in drawn)) == list(names)
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[format]
    assert all(one.path and one.path.read_bytes().startswith(begins) for one in drawn)
    name = f"loss_curves_mlp-d8-w512-b64-digits-a-processor-2-threads.{format}"
    assert tmp_path / "out" / name in [one.path for one in drawn]


def test_an_svg_s_text_is_text(tmp_path: Path) -> None:
    made_up.run(tmp_path / "results", [group(8), group(16)], targets=TARGETS)
    for one in charts.draw_all(tmp_path / "results", tmp_path / "out", "svg"):
        if one.chart == UNDER_A_BUDGET:
            continue
        assert one.path
        text = one.path.read_text()
        assert "width 512, batch 64 · digits · float32 · a processor, 2 threads" in text
        assert "/" not in one.path.name


def test_a_png_has_few_colours_and_white_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "names", lambda: ("loss_curves",))
    made_up.run(tmp_path / "results", [group(8)], targets=TARGETS)
    (drawn,) = charts.draw_all(tmp_path / "results", tmp_path / "out")
    assert drawn.path
    image = Image.open(drawn.path)
    assert image.mode == "P"
    assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


def test_the_same_runs_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "names", lambda: ("loss_curves",))
    made_up.run(tmp_path / "results", [group(8)])
    for format in charts.FORMATS:
        first, second = (
            [
                hashlib.sha256(one.path.read_bytes()).hexdigest()
                for one in charts.draw_all(tmp_path / "results", tmp_path / again, format)
                if one.path
            ]
            for again in ("once", "twice")
        )
        assert first == second


def test_absent_data_gives_a_reason_and_no_file(tmp_path: Path) -> None:
    made_up.run(tmp_path / "results", [group(8)], trained=False)
    drawn = {one.chart: one for one in charts.draw_all(tmp_path / "results", tmp_path / "out")}
    assert drawn["loss_curves"] == charts.Drawn("loss_curves", reason="no training in these runs")
    assert drawn["time_to_target"].reason == "no training in these runs"
    written = {path.name.split("_mlp")[0] for path in (tmp_path / "out").iterdir()}
    of_training = {"learning_rate_search", "loss_curves", "performance_profile", "reached_by_time"}
    assert written == set(NAMES) - of_training - {
        "activations_by_depth",
        "time_to_target",
        UNDER_A_BUDGET,
        *OF_WORTH,
    }


def test_a_run_that_measured_nothing_leaves_every_chart_out(tmp_path: Path) -> None:
    made_up.run(tmp_path / "results", [group(8)], timed=False, trained=False)
    drawn = charts.draw_all(tmp_path / "results", tmp_path / "out")
    assert [one.chart for one in drawn] == list(NAMES)
    assert all(one.path is None and one.reason for one in drawn)


def test_backprop_alone_has_no_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "names", lambda: ("ratio_by_depth",))
    made_up.run(tmp_path / "results", [group(8)], trained=False, methods=METHODS[:1])
    reasons = {one.chart: one.reason for one in charts.draw_all(tmp_path / "results", tmp_path / "out")}
    assert reasons["ratio_by_depth"] == "no timed method but backprop in these runs"


def test_a_part_that_is_absent_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "names", lambda: ("loss_curves",))
    made_up.run(tmp_path / "results", [group(8)])
    made_up.run(tmp_path / "results", [group(8, batch=8)], trained=False)
    drawn = charts.draw_all(tmp_path / "results", tmp_path / "out")
    assert [bool(one.path) for one in drawn] == [True, False]
    assert drawn[1].reason == "no training in mlp-d8-w512-b8-digits-a-processor-2-threads"


@pytest.mark.parametrize("arch", ["models/own.py:build", "models.own:build"])
def test_a_users_own_model_is_called_by_its_files_name_and_its_function(tmp_path: Path, arch: str) -> None:
    (comparison,) = comparisons([made_up.run(tmp_path, [group(4, arch=arch)])])
    assert comparison.slug.startswith("own.build-d4")


def setups(*runs: RunFolder) -> list[list[int]]:
    return [comparison.depths for comparison in comparisons(runs)]


def test_no_runs_make_no_comparison() -> None:
    assert setups() == []


def test_depths_of_several_runs_of_one_setup_make_one_comparison(tmp_path: Path) -> None:
    assert setups(made_up.run(tmp_path, [group(4)]), made_up.run(tmp_path, [group(1)])) == [[1, 4]]


@pytest.mark.parametrize(
    "changes", [{"batch": 8}, {"threads": 1}, {"width": 8}, {"dataset": "mnist"}, {"dtype": "float64"}]
)
def test_groups_that_differ_in_more_than_depth_are_apart(tmp_path: Path, changes: dict) -> None:
    runs = made_up.run(tmp_path, [group(1)]), made_up.run(tmp_path, [group(4, **changes)])
    assert setups(*runs) == [[1], [4]]


@pytest.mark.parametrize(
    "environment",
    [
        {"device_name": "another processor", "libraries": {"torch": "2.0.0"}},
        {"device_name": "a processor", "libraries": {"torch": "2.1.0"}},
    ],
)
def test_machines_and_torch_versions_are_apart_in_files_too(tmp_path: Path, environment: dict) -> None:
    runs = made_up.run(tmp_path, [group(1)]), made_up.run(tmp_path, [group(1)], environment=environment)
    slugs = [comparison.slug for comparison in comparisons(runs)]
    assert len(slugs) == len(set(slugs)) == 2


def test_two_runs_of_the_same_group_are_apart_and_named(tmp_path: Path) -> None:
    runs = made_up.run(tmp_path, [group(1)]), made_up.run(tmp_path, [group(1)])
    found = comparisons(runs)
    assert [comparison.run for comparison in found] == [run.path.name for run in runs]
    assert all(comparison.run in comparison.sentence for comparison in found)
    assert len(found[0].tables["curves"]) == len(runs[0].read("curves"))


def test_a_method_has_one_colour_in_every_chart(tmp_path: Path, draw: Draw) -> None:
    run = made_up.run(tmp_path, [group(8)], targets=TARGETS)
    depths = made_up.run(tmp_path, [group(4), group(8)])
    others = ("activations_by_depth", "memory_by_kind", "parts_of_a_step", UNDER_A_BUDGET)
    drawn = {name: draw(name, run) for name in NAMES if name not in others}
    drawn["activations_by_depth"] = draw("activations_by_depth", depths)
    for method in METHODS[1:]:
        assert len({colour(figure.axes[0], method) for figure in drawn.values()}) == 1
    assert colour(drawn["runtimes"].axes[0], METHODS[0]) == BLUE.lower()


def test_methods_that_share_a_figure_differ_in_more_than_their_marker_whatever_else_is_drawn() -> None:
    """Curves have no markers, and the runs of a folder have more methods than there are colours and lines."""
    many = [f"forward:tangents={k}" for k in range(2, 80)]
    figures = [[*many[:40:8], "spsa"], [*many[1:40:21], "forward"]]
    looks = looks_of([*many, "spsa", "forward"], figures)
    for own in figures:
        assert len({(looks[m].colour, looks[m].line) for m in own}) == len(own)
    assert looks == looks_of([*reversed(many), "forward", "spsa"], figures)


def test_looks_depend_on_names_alone_and_differ(tmp_path: Path) -> None:
    methods = ["backprop", *(f"forward:tangents={k}" for k in range(2, 14))]
    looks = looks_of(methods)
    assert looks == looks_of(reversed(methods))
    assert len(set(looks.values())) == len(methods)


def test_an_unknown_format_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--format gif: must be one of png, svg, pdf\."):
        charts.draw_all(tmp_path, tmp_path, "gif")


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no run"):
        charts.draw_all(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    made_up.run(tmp_path / "results", [group(8)])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        charts.draw_all(tmp_path / "results", tmp_path / "file" / "out")


def test_the_command_says_what_it_drew_and_what_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgbench.cli import app

    monkeypatch.setattr(charts, "names", lambda: ("loss_curves", "runtimes"))
    made_up.run(tmp_path, [group(8)], trained=False)
    result = CliRunner().invoke(app, ["plot", str(tmp_path), "--format", "svg"])
    assert result.exit_code == 0, result.output
    assert f"drawn {tmp_path / 'charts' / 'runtimes_mlp-d8-w512-b64'}" in result.output
    assert "left out loss_curves: no training in these runs" in result.output


def test_a_subtitle_is_wrapped_between_its_items():
    fits = "x" * (LETTERS_A_LINE - len(" · torch 2"))
    title, *lines = [text.get_text() for text in new_figure("t", [f"{fits} · torch 2.14"], 1.0).texts]
    assert (title, lines) == ("t", [f"{fits} ·", "torch 2.14"])
