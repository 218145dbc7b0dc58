"""The whole search for learning rates: every trial, and the rate that was chosen."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import log_axis
from fgbench.charts.drawing.style import GREY, Look, add_legend, height_over_legend, new_figure

NOTE = (
    "Small marks on the line: short trials; large: whole runs; ringed: chosen. At the upper edge: diverged "
    "or above the start."
)
FAINT = " Fainter: with another optimiser than was chosen."
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
        [comparison.sentence, NOTE + FAINT * _several(search)],
        height_over_legend(comparison.methods),
    )
    ax = figure.subplots()
    for method in comparison.methods:
        own = search[search["method"] == method].sort_values("learning_rate")
        for _, trials in own.groupby(own["optimizer"].fillna(""), sort=False):
            _draw_trials(ax, trials, comparison.looks[method], method, top)
    rates = [float(r) for r in search["learning_rate"]]
    log_axis(ax, "x", rates)
    ax.set(ylim=(0, top * 1.03), xlabel="Learning rate", ylabel="Validation loss (nats)")
    ax.grid(axis="y")
    add_legend(figure, ax, comparison.methods)
    return figure


def _several(search: pd.DataFrame) -> bool:
    """Whether a method was tried with more than one optimiser."""
    return bool((search.groupby("method")["optimizer"].nunique() > 1).any())


def _draw_trials(ax: Axes, trials: pd.DataFrame, look: Look, method: str, top: float) -> None:
    """Draw a method's trials with one optimiser; they are fainter where another optimiser was chosen."""
    shown = trials.assign(y=trials["validation_loss"].clip(upper=top))
    chosen = shown[shown["chosen"].fillna(value=False).astype(bool)]
    full = shown["full"].astype(bool)
    style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "zorder": 3}
    style["alpha"] = 1.0 if len(chosen) else 0.35
    label = method if len(chosen) else f"_{method}"
    short, whole = shown[~full], shown[full]
    ax.plot(short["learning_rate"], short["y"], linestyle=look.line, markersize=4, label=label, **style)
    ax.plot(whole["learning_rate"], whole["y"], linestyle="none", markersize=8, label=f"_{WHOLE}", **style)
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": GREY, "markeredgewidth": 1.4}
    rates, losses = chosen["learning_rate"], chosen["y"]
    ax.plot(rates, losses, "o", markersize=14, label=f"_{RING} {method}", **ring, zorder=4)


chart = Chart(_draw, scope="group")
