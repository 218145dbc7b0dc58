"""What a step's time is spent on: R split into drawing, forward pass, backward pass and update."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import reference_line, rows_height, stacked_bars
from fgbench.charts.drawing.style import new_figure
from fgbench.report.figures import number
from fgbench.summary.parts import ORDER

# In the order of a step; "backward and update" is a part of its own where both are done together.
SHADES = dict(zip(ORDER, ("#9a6b1f", "#1f5a8a", "#4d4b7a", "#7a3b69", "#94617f", "#8a9a5b"), strict=True))


def _draw(comparison: Comparison) -> Figure | str:
    parts = comparison.tables["parts"]
    parts = parts[np.isfinite(parts["r"].astype(float))]
    if parts.empty:
        return "no timing of parts"
    methods = [m for m in comparison.methods if m in set(parts["method"])]
    off = parts.drop_duplicates("method")["off"].abs().max()
    lines = [
        comparison.sentence,
        f"Parts timed apart; their sum is within {off:.1%} of whole steps timed between them.",
    ]
    figure = new_figure("R of a training step, split into its parts", lines, rows_height(methods) + 0.4)
    ax = figure.subplots()
    by_method = parts.set_index(["method", "part"])["r"]
    stacks = {method: by_method[method].to_dict() for method in methods}
    stacked_bars(figure, ax, stacks, SHADES, number)
    ax.set_xlabel("R: step time / base")
    reference_line(ax, 1.0, "base", vertical=True)
    return figure


chart = Chart(_draw, scope="group")
