"""R of every method: a training step over one plain evaluation of the loss."""

from __future__ import annotations

from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing import baydin
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import (
    basis,
    depth_axis,
    failures,
    lines_by_depth,
    paper_line,
    reference_line,
    rows_height,
    rows_of_methods,
    spread_of,
)
from fgbench.charts.drawing.style import add_legend, height_over_legend, new_figure

LABEL = "R: step time / base"


def _draw(comparison: Comparison) -> Figure | str:
    if comparison.rows["r"].isna().all():
        return "no timing"
    by_depth = len(comparison.depths) > 1
    title = f"Runtime R of a training step over one plain evaluation of the loss{', by depth' * by_depth}"
    lines = [comparison.sentence, f"{basis(comparison)} {failures(comparison, 'r')}"]
    height = height_over_legend if by_depth else rows_height
    figure = new_figure(title, lines, height(comparison.methods))
    ax = figure.subplots()
    highest = max(spread_of(comparison.rows, "r"))
    if by_depth:
        lines_by_depth(ax, comparison, "r", comparison.methods)
        depths = comparison.depths
        if baydin.applies(comparison):
            paper_line(ax, baydin.DEPTHS, baydin.R_FORWARD, f"R_f, {baydin.SOURCE}")
            paper_line(ax, baydin.DEPTHS, baydin.R_BACKPROP, f"R_b, {baydin.SOURCE}", dots=True)
            depths, highest = [*depths, *baydin.DEPTHS], max(highest, *baydin.R_BACKPROP)
        depth_axis(ax, depths)
        ax.set_ylim(0, highest * 1.08)
        ax.set_ylabel(LABEL)
        add_legend(figure, ax, comparison.methods)
    else:
        rows_of_methods(ax, comparison, "r", comparison.methods)
        ax.set_xlim(0, highest * 1.08)
        ax.set_xlabel(LABEL)
    reference_line(ax, 1.0, "base", vertical=not by_depth)
    return figure


chart = Chart(_draw)
