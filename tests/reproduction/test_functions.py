"""Descent on test functions: what is measured, what the CSVs say, and what the charts show of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fgbench.charts.drawing.style import print_style
from fgbench.errors import UsageError
from fgbench.measurement.statistics import Estimate
from fgbench.reproduction import functions as experiment
from fgbench.reproduction._function_curves import curves_chart
from fgbench.reproduction._function_figures import figures_chart

SETTINGS = {
    "cases": [
        {
            "function": "beale",
            "n": 2,
            "learning_rates": {"backprop": 0.01, "forward": 0.01},
            "iterations": 1000,
        },
        {
            "function": "sphere",
            "n": 8,
            "learning_rates": {
                "backprop": 0.1,
                "forward:tangents=2,combine=projection": 0.5,
                "forward": 50.0,
            },
            "iterations": 200,
        },
    ],
    "seeds": 6,
    "dtype": "float64",
    "timing_seconds": 0.1,
}


@pytest.fixture(scope="module")
def notes() -> list[tuple[str, float]]:
    return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory, notes) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    experiment.measure(SETTINGS, folder, lambda text, share: notes.append((text, share)))
    return folder


@pytest.fixture(scope="module")
def curves(folder) -> pd.DataFrame:
    return pd.read_csv(folder / "functions.csv.gz")


@pytest.fixture(scope="module")
def found(folder) -> dict[str, Estimate]:
    return experiment.figures(folder)


def in_words(figures: dict[str, Estimate]) -> dict[str, str]:
    """Figures that can be compared, as no nan equals itself."""
    return {name: str(found) for name, found in figures.items()}


def changed(**changes) -> dict:
    case = {**SETTINGS["cases"][0], **changes}
    return {**SETTINGS, "cases": [case]}


def written(folder: Path, ends: dict[str, list[float]], seconds: dict[str, list[float]]) -> Path:
    """The CSVs of one case, sphere/4: last values by method and seed, seconds a step by method and round."""
    points = [
        ("sphere", 4, method, seed, iteration, 0.1 * iteration, value, min(value, 4.0), 0, 0)
        for method, values in ends.items()
        for seed, last in enumerate(values)
        for iteration, value in ((0, 4.0), (9, last))
    ]
    pd.DataFrame(points, columns=experiment.CURVE_COLUMNS).to_csv(folder / "functions.csv.gz", index=False)
    blocks = [
        ("sphere", 4, method, index, 0, False, 1, time)
        for method, times in seconds.items()
        for index, time in enumerate(times)
    ]
    pd.DataFrame(blocks, columns=experiment.TIMING_COLUMNS).to_csv(folder / "timing.csv.gz", index=False)
    return folder


def hollow(figure: Figure) -> list[tuple[float, float]]:
    """Where the paper's values are drawn."""
    lines = [line for ax in figure.axes for line in ax.lines if line.get_marker() == "D"]
    empty = [line for line in lines if line.get_markerfacecolor() == "none"]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in empty]


class TestMeasuring:
    def test_exact_gradient_descent_ends_where_it_must(self, found):
        assert found["beale/2/backprop/final"].value == pytest.approx(5.56012e-5, rel=1e-5)

    def test_forward_gradients_end_where_50_seeds_did(self, found):
        """Median 5.17e-5, all from 2.8e-5 to 9.5e-5."""
        assert 2.8e-5 < found["beale/2/forward/final"].value < 9.5e-5

    def test_a_method_that_draws_nothing_runs_once_others_with_every_seed(self, curves, found):
        seeds = curves.groupby(["function", "method"])["seed"].nunique()
        assert seeds["beale", "backprop"] == 1
        assert seeds["beale", "forward"] == 6
        assert not found["beale/2/backprop/final"].has_interval
        assert found["beale/2/forward/final"].has_interval

    def test_a_curve_begins_at_the_start_and_its_clock_counts_steps_alone(self, curves):
        for _, run in curves.groupby(["function", "method", "seed"]):
            assert run["iteration"].iloc[0] == 0
            assert run["iteration"].is_monotonic_increasing
            assert run["iteration"].is_unique
            assert run["seconds"].is_monotonic_increasing
            assert run["seconds"].iloc[0] == 0
            assert run["best"].is_monotonic_decreasing
            assert (run["best"] <= run["value"]).all()
        beale = curves[curves["function"] == "beale"]
        first = beale[beale["iteration"] == 0]
        assert set(zip(first["value"], first["x0"], first["x1"], strict=True)) == {(14.203125, 0.0, 0.5)}
        assert (beale.groupby(["method", "seed"])["iteration"].max() == 1000).all()

    def test_a_run_that_diverges_ends_as_inf_and_stays_in(self, curves, found):
        own = curves[(curves["function"] == "sphere") & (curves["method"] == "forward")]
        last = own.groupby("seed").tail(1)
        assert np.isinf(last["value"]).all()
        assert len(last) == 6
        assert math.isinf(found["sphere/8/forward/final"].value)
        assert found["sphere/8/forward/best"].value == 8

    def test_every_method_but_backprop_has_its_time_over_backprops(self, found):
        timed = {key for key in found if key.endswith("/time_ratio")}
        assert timed == {
            "beale/2/forward/time_ratio",
            "sphere/8/forward/time_ratio",
            "sphere/8/forward:tangents=2,combine=projection/time_ratio",
        }
        assert all(found[key].has_interval for key in timed)

    def test_the_same_settings_give_the_same_curves(self, curves, tmp_path):
        settings = changed(iterations=20)
        again = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            experiment.measure({**settings, "timing_seconds": 0}, tmp_path / name, lambda *_: None)
            again.append(pd.read_csv(tmp_path / name / "functions.csv.gz").drop(columns="seconds"))
        pd.testing.assert_frame_equal(*again)

    def test_what_was_interrupted_leaves_no_half_table(self, tmp_path):
        def stop(text: str, share: float) -> None:
            if "timing" in text:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            experiment.measure(changed(iterations=20), tmp_path, stop)
        assert not list(tmp_path.glob("*.csv.gz"))

    def test_tables_of_older_versions_are_read_too(self, folder, found, tmp_path):
        for table in ("functions", "timing"):
            pd.read_csv(folder / f"{table}.csv.gz").to_csv(tmp_path / f"{table}.csv", index=False)
        assert in_words(experiment.figures(tmp_path)) == in_words(found)

    def test_says_how_far_it_is(self, notes, folder):
        shares = [share for _, share in notes]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0, 1)
        assert notes[0][0] == "beale/2, backprop, seed 1 of 1"

    def test_takes_longer_with_more_seeds_but_for_what_draws_nothing(self):
        few, many = ({**SETTINGS, "seeds": seeds} for seeds in (1, 11))
        forward = 2 * 200 + 1000  # steps of the methods that draw, for each seed
        more = experiment.seconds(many) - experiment.seconds(few)
        assert more == pytest.approx(10 * forward * experiment.STEP_SECONDS[True])

    def test_a_case_may_have_more_seeds_than_the_others(self):
        more = experiment.seconds(changed(seeds=11)) - experiment.seconds(changed())
        assert more == pytest.approx((11 - 6) * 1000 * experiment.STEP_SECONDS[True])

    def test_a_method_may_have_more_seeds_than_the_others(self):
        more = experiment.seconds(changed(seeds={"forward": 11})) - experiment.seconds(changed())
        assert more == pytest.approx((11 - 6) * 1000 * experiment.STEP_SECONDS[True])

    def test_of_many_seeds_the_last_keep_only_the_ends_of_their_curves(
        self, curves, found, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(experiment, "WHOLE_CURVES", 4)
        experiment.measure(SETTINGS, tmp_path, lambda *_: None)
        few = pd.read_csv(tmp_path / "functions.csv.gz")
        assert set(few[few["seed"] >= 4]["iteration"]) == {0, 200, 1000}
        values = ["iteration", "value", "best"]
        first, same = (table[table["seed"] < 4][values].reset_index(drop=True) for table in (few, curves))
        assert first.equals(same)
        again = experiment.figures(tmp_path)
        ends = [key for key in found if not key.endswith("time_ratio")]
        assert in_words({key: again[key] for key in ends}) == in_words({key: found[key] for key in ends})

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            (changed(seeds={"spsa": 9}), "case beale/2: seeds of spsa, which has no learning rate"),
            (changed(function="nonsense"), "no function 'nonsense'"),
            (changed(n=3), "has exactly 2 dimensions"),
            (changed(learning_rates={"nonsense": 1.0}), "no method 'nonsense'"),
            (changed(steps=3), "unexpected keyword argument 'steps'"),
            ({**SETTINGS, "cases": SETTINGS["cases"][:1] * 2}, "case beale/2 is given twice"),
            ({**SETTINGS, "dtype": "int8"}, "must be one of float32, float64"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_runs(self, settings, says, tmp_path):
        with pytest.raises(UsageError, match=says):
            experiment.measure(settings, tmp_path, lambda *_: None)
        assert not list(tmp_path.iterdir())


class TestFigures:
    def test_are_medians_over_seeds_in_which_inf_counts(self, tmp_path):
        ends = {"forward": [1.0, 3.0, math.inf], "spsa": [1.0, math.inf, math.inf], "backprop": [0.5]}
        found = experiment.figures(written(tmp_path, ends, {"backprop": [1.0] * 6}))
        finals = {key.split("/")[2]: e.value for key, e in found.items() if key.endswith("final")}
        assert finals == {"forward": 3.0, "spsa": math.inf, "backprop": 0.5}
        assert found["sphere/4/spsa/best"].value == 4.0

    def test_a_time_ratio_is_taken_inside_a_round(self, tmp_path):
        slower = [1.0, 2.0, 3.0, 5.0, 8.0, 13.0]
        times = {"backprop": slower, "forward": [2 * t for t in slower]}
        found = experiment.figures(written(tmp_path, {"forward": [1.0]}, times))
        ratio = found["sphere/4/forward/time_ratio"]
        assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))


class TestCharts:
    def test_are_png_files_one_for_the_curves_and_one_for_the_figures(self, folder, tmp_path):
        paths = experiment.draw(folder, tmp_path, {"beale/2/forward/time_ratio": 0.86})
        assert [p.name for p in paths] == [
            "curves_beale_n2.png",
            "figures_beale.png",
            "curves_sphere_n8.png",
            "figures_sphere.png",
        ]
        assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)

    def test_mark_the_papers_values_hollow_where_they_are(self, found):
        claims = {"beale/2/forward/time_ratio": 0.86, "beale/2/forward/final": 5e-5}
        with print_style():
            figure = figures_chart("beale", [2], ["backprop", "forward"], found, claims)
        assert sorted(hollow(figure)) == [(5e-5, 1), (0.86, 1)]

    def test_no_axis_label_leaves_the_picture(self):
        """As beside names of methods that take much of the width."""
        methods = ["backprop", "forward:tangents=16,structure=fixed-angle,angle=15,combine=projection"]
        found = {f"sphere/4/{m}/{what}": Estimate(1.0) for m in methods for what in ("final", "time_ratio")}
        with print_style():
            figure = figures_chart("sphere", [4], methods, found, {})
            FigureCanvasAgg(figure).draw()
        for ax in figure.axes:
            ends = ax.xaxis.label.get_window_extent()
            assert ends.x0 > 0
            assert ends.x1 < figure.bbox.width - 5

    def test_over_dimensions_values_with_another_minimum_than_zero_are_per_dimension(self):
        names = [f"styblinski-tang/{n}/forward/best" for n in (4, 64)]
        claims = {names[0]: -120.0, names[1]: -2363.8}
        with print_style():
            figure = figures_chart("styblinski-tang", [4, 64], ["forward"], {}, claims)
        assert hollow(figure) == [(4, -30.0)]
        line = next(line for ax in figure.axes for line in ax.lines if line.get_marker() == "D")
        assert list(line.get_ydata()) == pytest.approx([-30.0, -36.934375])

    def test_a_curve_that_diverges_leaves_the_axes_and_is_named(self, curves):
        rows = curves[curves["function"] == "sphere"]
        with print_style():
            figure = curves_chart("sphere", 8, rows, {})
        assert any("forward in 6 runs" in text.get_text() for text in figure.texts)
        assert all(8 < ax.get_ylim()[1] < 100 for ax in figure.axes)

    def test_a_path_goes_from_the_start_to_the_minimum(self, curves):
        with print_style():
            figure = curves_chart("beale", 2, curves[curves["function"] == "beale"], {})
        path = next(ax for ax in figure.axes if ax.get_xlabel() == "x")
        runs = [line for line in path.lines if len(line.get_xdata()) > 1]
        assert len(runs) == 2
        for line in runs:
            x, y = line.get_xdata(), line.get_ydata()
            assert (x[0], y[0]) == (0, 0.5)
            assert (x[-1], y[-1]) == pytest.approx((3, 0.5), abs=0.05)
