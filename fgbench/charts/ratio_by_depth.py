"""R_f/R_b by depth: the time of a step over that of a backprop step, with a line at 1."""

from __future__ import annotations

from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing import baydin
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import (
    basis,
    depth_axis,
    failures,
    labels_with_figures,
    lines_by_depth,
    log_axis,
    paper_line,
    reference_line,
    rows_height,
    rows_of_methods,
    spread_of,
)
from fgbench.charts.drawing.style import add_legend, height_over_legend, new_figure


def _draw(comparison: Comparison) -> Figure | str:
    reference = comparison.setup["reference"]
    others = comparison.rows[comparison.rows["method"] != reference]
    if comparison.rows["ratio"].isna().all():
        return "no timing"
    if others["ratio"].isna().all():
        return f"no timed method but {reference}"
    methods = [m for m in comparison.methods if m != reference]
    with_paper = baydin.applies(comparison)
    by_depth = len(comparison.depths) > 1 or with_paper
    lines = [comparison.sentence, f"{basis(comparison)} {failures(comparison, 'ratio')}"]
    labels = {m: m for m in methods}
    if len(comparison.depths) == 1:
        labels = labels_with_figures(comparison, "ratio", methods)
    height = height_over_legend(list(labels.values())) if by_depth else rows_height(methods)
    figure = new_figure(_title(comparison), lines, height)
    ax = figure.subplots()
    values = [*spread_of(others, "ratio"), 1.0, *(baydin.RATIO if with_paper else ())]
    label = f"Step time / {reference}'s"
    if by_depth:
        lines_by_depth(ax, comparison, "ratio", methods, labels=labels)
        if with_paper:
            paper_line(ax, baydin.DEPTHS, baydin.RATIO, f"forward, {baydin.SOURCE}")
        depth_axis(ax, [*comparison.depths, *(baydin.DEPTHS if with_paper else ())])
        log_axis(ax, "y", values)
        ax.set_ylabel(label)
        add_legend(figure, ax, list(labels.values()))
    else:
        rows_of_methods(ax, comparison, "ratio", methods)
        log_axis(ax, "x", values)
        ax.set_xlabel(label)
    reference_line(
        ax, 1.0, ("as fast as\n" if by_depth else "as fast as ") + reference, vertical=not by_depth
    )
    return figure


def _title(comparison: Comparison) -> str:
    by_depth = " by depth" if len(comparison.depths) > 1 else ""
    return f"Runtime ratio R_f / R_b: a training step over {comparison.setup['reference']}'s{by_depth}"


chart = Chart(_draw)
