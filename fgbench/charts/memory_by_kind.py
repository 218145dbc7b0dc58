"""What lives at the peak of a training step: parameters, gradients and tangents, activations."""

from __future__ import annotations

from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import rows_height, stacked_bars
from fgbench.charts.drawing.style import new_figure
from fgbench.charts.memory_by_depth import unit_of
from fgbench.report.figures import size
from fgbench.store.schema import BASE

# What a step keeps comes first, what it frees again last.
SHADES = {
    "parameters": "#8d99a6",
    "optimizer state": "#5f6f7f",
    "gradients and tangents": "#9a6b1f",
    "activations and temporaries": "#1f5a8a",
}


def _draw(comparison: Comparison) -> Figure | str:
    memory = comparison.tables["memory"]
    kinds = memory["kind"].str.removeprefix("peak_").str.replace("_", " ")
    own = memory.assign(kind=kinds)[memory["kind"].str.startswith("peak_") & kinds.isin(SHADES)]
    own = own[own["bytes"] > 0]
    methods = [m for m in (BASE, *comparison.methods) if m in set(own["method"])]
    if not methods:
        return "no memory by kind"
    sums = own.groupby("method")["bytes"].sum()
    unit, scale = unit_of(sums.max())
    lines = [
        comparison.sentence,
        "All that lives at the moment when a step needs most; base: evaluation alone.",
    ]
    figure = new_figure("Peak memory of a training step, by kind", lines, rows_height(methods) + 0.4)
    ax = figure.subplots()
    by_method = own.set_index(["method", "kind"])["bytes"] / scale
    stacks = {method: by_method[method].to_dict() for method in methods}
    stacked_bars(figure, ax, stacks, SHADES, lambda total: size(total * scale))
    ax.set_xlabel(f"Peak allocated ({unit})")
    return figure


chart = Chart(_draw, scope="group")
