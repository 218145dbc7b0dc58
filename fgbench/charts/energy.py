"""Energy of a training step, as the GPU counts it."""

from __future__ import annotations

from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import bars, depth_axis, failures, lines_by_depth, rows_height
from fgbench.charts.drawing.style import add_legend, height_over_legend, new_figure
from fgbench.measurement.load import WINDOW_SECONDS
from fgbench.report.figures import joules

LABEL = "Energy of a step (J)"


def _draw(comparison: Comparison) -> Figure | str:
    if comparison.rows["joules"].isna().all():
        return "no energy (a GPU counts it)"
    by_depth = len(comparison.depths) > 1
    lines = [comparison.sentence, f"Over a window of {WINDOW_SECONDS:g} s. {failures(comparison, 'joules')}"]
    height = height_over_legend if by_depth else rows_height
    title = f"Energy of a training step{', by depth' * by_depth}"
    figure = new_figure(title, lines, height(comparison.methods))
    ax = figure.subplots()
    highest = comparison.rows["joules"].max() * 1.08
    if by_depth:
        lines_by_depth(ax, comparison, "joules", comparison.methods)
        depth_axis(ax, comparison.depths)
        ax.set(ylim=(0, highest), ylabel=LABEL)
        add_legend(figure, ax, comparison.methods)
    else:
        bars(ax, comparison, "joules", joules)
        ax.set(xlim=(0, highest), xlabel=LABEL)
    return figure


chart = Chart(_draw)
