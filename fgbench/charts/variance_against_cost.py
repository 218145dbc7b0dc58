"""Cost of a step against the variance of its estimate: R, and ‖g‖²/‖∇f‖²."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import basis, log_axis, reach, spread_of
from fgbench.charts.drawing.style import GREY, add_legend, height_over_legend, new_figure
from fgbench.summary.variants import frontier

FRONTIER = "no method is both cheaper and less noisy"


def _draw(comparison: Comparison) -> Figure | str:
    rows = comparison.rows.dropna(subset=["r", "second_moment"])
    rows = rows[rows["second_moment"] > 0]
    if len(rows) < 2:
        return "no two methods with both a time and a variance"
    methods = [m for m in comparison.methods if m in set(rows["method"])]
    lines = [
        comparison.sentence,
        f"{basis(comparison)} ‖g‖²/‖∇f‖²: means along the training of {comparison.setup['reference']}. Lower "
        "left is better; a shorter estimate of a biased method need not be.",
    ]
    edge = frontier(rows, "r", "second_moment")
    labels = [*methods, FRONTIER] if len(edge) > 1 else methods
    height = height_over_legend(labels) + 0.6
    figure = new_figure("Variance against cost: what a step takes, and how noisy it is", lines, height)
    ax = figure.subplots()
    if len(edge) > 1:
        _line(ax, edge)
    for method in methods:
        own, look = rows[rows["method"] == method], comparison.looks[method]
        ax.errorbar(
            own["r"],
            own["second_moment"],
            xerr=reach(own, "r"),
            color=look.colour,
            marker=look.marker,
            markersize=7,
            markeredgecolor="white",
            linestyle="none",
            label=method,
            zorder=3,
        )
    log_axis(ax, "x", spread_of(rows, "r"))
    log_axis(ax, "y", spread_of(rows, "second_moment"))
    ax.set(xlabel="R: step time / base", ylabel="‖g‖² / ‖∇f‖²")
    ax.grid()
    add_legend(figure, ax, methods)
    return figure


def _line(ax: Axes, edge: pd.DataFrame) -> None:
    ax.step(
        edge["r"],
        edge["second_moment"],
        where="post",
        color=GREY,
        linewidth=1.0,
        linestyle="--",
        label=FRONTIER,
    )


chart = Chart(_draw, scope="group")
