"""How well a step's estimate points along the gradient: by training step, and by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import log_axis
from fgbench.charts.drawing.style import add_legend, height_over_legend, new_figure
from fgbench.measurement.statistics import t_quantile
from fgbench.summary.worth import ALL, START, at_reference

LEAST = 1e-6  # the smallest cosine on a logarithmic axis
LINEAR = 1e-2  # where some cosines are negative, the axis is linear below this


def _draw(comparison: Comparison) -> Figure | str:
    quality = comparison.tables["quality"].dropna(subset=["cosine"])
    if quality.empty:
        return "no estimates held against the gradient"
    reference = comparison.setup["reference"]
    lines = [
        comparison.sentence,
        f"Thick: at {reference}'s weights. Thin and dotted: at the method's own. Right: at {reference}'s, "
        "mean over its training. Bars: 95 % over draws.",
    ]
    methods = [m for m in comparison.methods if m in set(quality["method"])]
    figure = new_figure("Cosine of a step's estimate with the gradient", lines, height_over_legend(methods))
    by_step, by_layer = figure.subplots(1, 2, sharey=True)
    layers = [layer for layer in quality["layer"].unique() if layer != ALL]
    drawn = [
        *_by_step(by_step, comparison, quality, methods),
        *_by_layer(by_layer, comparison, quality, methods, layers),
    ]
    if min(drawn) > LEAST:
        log_axis(by_step, "y", drawn)
    else:
        by_step.set_yscale("symlog", linthresh=LINEAR)
    by_step.set(xlabel="Step", ylabel="Cosine with ∇f")
    by_layer.set_xlabel(f"Layer (module {layers[0]}\nto module {layers[-1]})" if layers else "Layer")
    by_layer.set_xticks(range(len(layers)), [str(n + 1) for n in range(len(layers))])
    if len(layers) > 16:
        by_layer.set_xticks(range(0, len(layers), len(layers) // 8))
    for ax in (by_step, by_layer):
        ax.grid(axis="y")
    add_legend(figure, by_step, methods)
    return figure


def _by_step(ax: Axes, comparison: Comparison, quality: pd.DataFrame, methods: list[str]) -> Iterator[float]:
    whole = quality[quality["layer"] == ALL]
    reference = comparison.setup["reference"]
    for method in methods:
        own = whole[whole["method"] == method]
        at_own = own[own["weights"].isin([START, method])]
        if method != reference and len(at_own) > 1:
            yield from _line(ax, comparison, method, at_own, linestyle=":", linewidth=1.0, markersize=3)
        there = at_reference(own, reference)
        yield from _line(ax, comparison, method, there, label=method, markersize=4)


def _line(ax: Axes, comparison: Comparison, method: str, rows: pd.DataFrame, **style: Any) -> Iterator[float]:
    look = comparison.looks[method]
    plain = {"linestyle": look.line, "color": look.colour, "marker": look.marker}
    rows = rows.sort_values("iteration")
    reach = (rows["draws"].sub(1).map(t_quantile) * rows["cosine_error"]).fillna(0)
    ax.errorbar(rows["iteration"].astype(int), rows["cosine"], reach, **{**plain, **style})
    yield from rows["cosine"].astype(float)


def _by_layer(
    ax: Axes, comparison: Comparison, quality: pd.DataFrame, methods: list[str], layers: list[str]
) -> Iterator[float]:
    reference = comparison.setup["reference"]
    there = quality[quality["weights"].isin([START, reference])]
    for method in methods:
        means = there[there["method"] == method].groupby("layer")["cosine"].mean()
        found = [(place, float(means[layer])) for place, layer in enumerate(layers) if layer in means]
        look = comparison.looks[method]
        ax.plot(
            [place for place, _ in found],
            [value for _, value in found],
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            markersize=4,
        )
        yield from (value for _, value in found)


chart = Chart(_draw, scope="group")
