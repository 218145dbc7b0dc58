"""Time against memory: a point for every variant of every method, the frontier, and T of the chosen ones."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import beside, log_axis, name_rows, rows_height
from fgbench.charts.drawing.style import GREY, INK, add_legend, height_over_legend, new_figure
from fgbench.charts.memory_by_depth import unit_of
from fgbench.report.figures import missing, number, target_words
from fgbench.summary.variants import frontier


def _draw(comparison: Comparison) -> Figure | str:
    found = comparison.tables["variants"].dropna(subset=["r", "beyond_bytes"])
    if found.empty:
        return "no variants under a memory budget"
    unit, scale = unit_of(found["beyond_bytes"].max())
    lines = [
        comparison.sentence,
        "Each point is a way to take a method's step. Filled: within the budget; ringed: the fastest of its "
        "method there; line: what no other beats in both.",
    ]
    methods = [m for m in comparison.methods if m in set(found["method"])]
    reached = [m for m in comparison.methods if not missing(comparison.row(m)["t"])]
    heights = [height_over_legend(methods) + 0.6, *([rows_height(reached)] if reached else [])]
    figure = new_figure("Time of a step against memory", lines, sum(heights))
    ax, *below = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for method in methods:
        _points(ax, comparison, found[found["method"] == method], method, scale)
    best = frontier(found, "peak_bytes", "r")
    edge = best["beyond_bytes"].clip(lower=1) / scale, best["r"]
    ax.plot(*edge, color=GREY, linewidth=0.9, drawstyle="steps-post", zorder=1)
    log_axis(ax, "x", list(found["beyond_bytes"].clip(lower=1) / scale))
    log_axis(ax, "y", list(found["r"]))
    ax.set(xlabel=f"Peak beyond the parameters ({unit})", ylabel="R")
    ax.grid(axis="both")
    add_legend(figure, ax, methods)
    if below:
        _draw_times(below[0], comparison, reached)
    return figure


def _points(ax: Axes, comparison: Comparison, own: pd.DataFrame, method: str, scale: int) -> None:
    look = comparison.looks[method]
    fits, chosen = (own[column].fillna(value=False).astype(bool) for column in ("fits", "chosen"))
    kinds = ((own[fits], look.colour, method), (own[~fits], "none", None if fits.any() else method))
    for rows, face, label in kinds:
        x, y = rows["beyond_bytes"] / scale, rows["r"]
        ax.scatter(
            x, y, marker=look.marker, s=26, facecolors=face, edgecolors=look.colour, label=label, zorder=3
        )
    taken = own[chosen]
    ax.scatter(taken["beyond_bytes"] / scale, taken["r"], s=110, facecolors="none", edgecolors=INK, zorder=4)


def _draw_times(ax: Axes, comparison: Comparison, methods: list[str]) -> None:
    for place, method in enumerate(methods):
        seconds = comparison.row(method)["t"]
        if math.isfinite(seconds):
            ax.barh(place, seconds, height=0.5, color=comparison.looks[method].colour)
        beside(ax, place, f"{number(seconds)} s" if math.isfinite(seconds) else "not reached")
    name_rows(ax, methods)
    ax.set(xlabel=f"T to {target_words(comparison.setup)} (s)", xlim=(0, None))


chart = Chart(_draw, scope="group")
