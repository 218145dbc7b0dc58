"""The measured ratio over its floor, by depth: the part of a ratio that is due to the implementation."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import (
    basis,
    depth_axis,
    lines_by_depth,
    log_axis,
    reference_line,
    rows_height,
    rows_of_methods,
    spread_of,
)
from fgbench.charts.drawing.style import add_legend, height_over_legend, new_figure

OVER = "over_floor"


def _draw(comparison: Comparison) -> Figure | str:
    rows, reference = comparison.rows, comparison.setup["reference"]
    ends = {f"{OVER}{end}": rows[f"ratio{end}"] / rows["floor_ratio"] for end in ("", "_low", "_high")}
    rows = rows.assign(**ends)
    methods = [m for m in comparison.methods if m != reference]
    shown = rows[rows["method"].isin(methods)].dropna(subset=[OVER])
    if shown.empty:
        return f"no ratio of another method than {reference} with a floor"
    lines = [
        comparison.sentence,
        f"{basis(comparison)} Floor: the ratio of the least times that this machine needs, by FLOPs and "
        "bytes. Above 1 a method's step is farther from its floor than the reference's from its own.",
    ]
    by_depth = len(comparison.depths) > 1
    title = "Measured ratio over its floor" + (", by depth" if by_depth else "")
    figure = new_figure(title, lines, (height_over_legend if by_depth else rows_height)(methods))
    ax, whole = figure.subplots(), replace(comparison, rows=rows)
    label, values = f"(R / R of {reference}) / floor", [*spread_of(shown, OVER), 1.0]
    if by_depth:
        lines_by_depth(ax, whole, OVER, methods)
        depth_axis(ax, comparison.depths)
        log_axis(ax, "y", values)
        ax.set_ylabel(label)
        add_legend(figure, ax, methods)
    else:
        rows_of_methods(ax, whole, OVER, methods)
        log_axis(ax, "x", values)
        ax.set_xlabel(label)
    reference_line(ax, 1.0, ("as far as\n" if by_depth else "as far as ") + reference, vertical=not by_depth)
    return figure


chart = Chart(_draw)
