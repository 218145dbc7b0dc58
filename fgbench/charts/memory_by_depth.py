"""Peak memory of a training step by depth, and the memory of the parameters alone."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import bars, failures, lines_by_depth, reference_line, rows_height
from fgbench.charts.drawing.style import GREY, add_legend, height_over_legend, new_figure
from fgbench.report.figures import size

UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
PARAMETERS = "parameters alone"


def _draw(comparison: Comparison) -> Figure | str:
    rows = comparison.rows
    if rows["peak_bytes"].isna().all():
        return "no memory measurement"
    by_depth = len(comparison.depths) > 1
    unit, scale = unit_of(rows["peak_bytes"].max())
    title = f"Peak memory of a training step{' by depth' * by_depth}"
    lines = [comparison.sentence, failures(comparison, "peak_bytes")]
    height = height_over_legend if by_depth else rows_height
    figure = new_figure(title, lines, height(comparison.methods))
    ax = figure.subplots()
    highest = rows["peak_bytes"].max() / scale * 1.08
    if by_depth:
        _draw_lines(ax, comparison, scale)
        ax.set(ylim=(0, highest), xlim=(0, None), xlabel="Depth", ylabel=f"Peak allocated ({unit})")
        ax.grid(axis="y")
        add_legend(figure, ax, comparison.methods)
    else:
        _draw_bars(ax, comparison, scale)
        ax.set(xlim=(0, highest), xlabel=f"Peak allocated ({unit})")
    return figure


def _draw_lines(ax: Axes, comparison: Comparison, scale: int) -> None:
    lines_by_depth(ax, comparison, "peak_bytes", comparison.methods, scale)
    parameters = parameter_bytes(comparison)
    if len(parameters):
        ax.plot(parameters.index, parameters / scale, color=GREY, linewidth=0.9, label=PARAMETERS, zorder=1)


def _draw_bars(ax: Axes, comparison: Comparison, scale: int) -> None:
    bars(ax, comparison, "peak_bytes", size, scale)
    for value in parameter_bytes(comparison):
        reference_line(ax, value / scale, PARAMETERS, vertical=True)


def parameter_bytes(comparison: Comparison) -> pd.Series:
    """Bytes of the parameters, by depth."""
    memory = comparison.tables["memory"]
    own = memory[memory["kind"] == "parameters"].dropna(subset=["bytes"])
    groups = comparison.rows.drop_duplicates(["run", "group"])
    merged = own.merge(groups[["run", "group", "depth"]], on=["run", "group"])
    return merged.groupby("depth")["bytes"].first().astype("float64").sort_index()


def unit_of(largest: float) -> tuple[str, int]:
    """A binary unit that suits this many bytes, and its size in bytes."""
    return next(((name, scale) for name, scale in UNITS if largest >= scale), ("B", 1))


chart = Chart(_draw)
