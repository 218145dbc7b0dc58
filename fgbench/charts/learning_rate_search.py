"""The whole search for learning rates: every trial, and what was chosen."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts._comparison import Comparison
from fgbench.charts._parts import log_axis
from fgbench.charts._style import GREY, add_legend, height_over_legend, new_figure

NOTE = (
    "Small marks on the line: short trials; large: whole runs; ringed: chosen. At the upper edge: diverged "
    "or above the start."
)
WHOLE, RING = "whole run", "chosen"


def _draw(comparison: Comparison) -> Figure | str:
    search = comparison.tables["search"]
    if search.empty:
        return "no search"
    curves = comparison.tables["curves"]
    start = curves[curves["iteration"] == 0]["validation_loss"].max()
    finite = search["validation_loss"][search["validation_loss"].map(math.isfinite)]
    top = float(start if math.isfinite(start) else finite.max()) * 1.1
    figure = new_figure(
        "Validation loss at the end of a trial, by learning rate",
        [comparison.sentence, NOTE],
        height_over_legend(comparison.methods),
    )
    ax = figure.subplots()
    for method in comparison.methods:
        own, look = search[search["method"] == method].sort_values("learning_rate"), comparison.looks[method]
        shown = own.assign(y=own["validation_loss"].clip(upper=top))
        short, whole = shown[~shown["full"].astype(bool)], shown[shown["full"].astype(bool)]
        style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "zorder": 3}
        ax.plot(short["learning_rate"], short["y"], linestyle=look.line, markersize=4, label=method, **style)
        ax.plot(
            whole["learning_rate"], whole["y"], linestyle="none", markersize=8, label=f"_{WHOLE}", **style
        )
        chosen = whole[whole["chosen"].fillna(value=False).astype(bool)]
        ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": GREY, "markeredgewidth": 1.4}
        ax.plot(
            chosen["learning_rate"],
            chosen["y"],
            "o",
            markersize=14,
            label=f"_{RING} {method}",
            **ring,
            zorder=4,
        )
    rates = [float(r) for r in search["learning_rate"]]
    log_axis(ax, "x", rates)
    ax.set(ylim=(0, top * 1.03), xlabel="Learning rate", ylabel="Validation loss (nats)")
    ax.grid(axis="y")
    add_legend(figure, ax, comparison.methods)
    return figure


chart = Chart(_draw, scope="group")
