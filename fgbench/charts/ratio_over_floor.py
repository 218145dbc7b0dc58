"""The measured ratio over its floor, by depth: the part of a ratio that is not in the method itself."""

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
    title = "Measured ratio over its floor" + (", by depth" if len(comparison.depths) > 1 else "")
    figure = new_figure(title, lines, height_over_legend(methods))
    ax = figure.subplots()
    lines_by_depth(ax, replace(comparison, rows=rows), OVER, methods)
    depth_axis(ax, comparison.depths)
    log_axis(ax, "y", [*spread_of(shown, OVER), 1.0])
    ax.set_ylabel(f"(R / R of {reference}) / floor")
    reference_line(ax, 1.0, "as far as\n" + reference, vertical=False)
    add_legend(figure, ax, methods)
    return figure


chart = Chart(_draw)
