"""Peak memory of a step beyond the parameters, by depth: what activations and tangents take."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import failures, lines_by_depth
from fgbench.charts.drawing.style import add_legend, height_over_legend, new_figure
from fgbench.charts.memory_by_depth import parameter_bytes, unit_of


def _draw(comparison: Comparison) -> Figure | str:
    parameters = parameter_bytes(comparison)
    beyond = comparison.rows["peak_bytes"] - comparison.rows["depth"].map(parameters)
    if beyond.isna().all():
        return "no memory measurement"
    if len(comparison.depths) < 2:
        return "one depth only"
    unit, scale = unit_of(beyond.max())
    lines = [comparison.sentence, failures(comparison, "peak_bytes")]
    title = "Peak memory of a training step beyond the parameters, by depth"
    figure = new_figure(title, lines, height_over_legend(comparison.methods))
    ax = figure.subplots()
    shown = replace(comparison, rows=comparison.rows.assign(beyond=beyond))
    lines_by_depth(ax, shown, "beyond", comparison.methods, scale)
    ax.set(ylim=(0, beyond.max() / scale * 1.08), xlim=(0, None), xlabel="Depth")
    ax.set_ylabel(f"Peak allocated − parameters ({unit})")
    ax.grid(axis="y")
    add_legend(figure, ax, comparison.methods)
    return figure


chart = Chart(_draw)
