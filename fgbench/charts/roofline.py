"""Roofline of the base and each method: FLOPs a second against FLOPs a byte, under the machine's roof."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import log_axis
from fgbench.charts.drawing.style import GREY, INK, Look, add_legend, height_over_legend, new_figure
from fgbench.store.schema import BASE

BASE_LOOK = Look(INK, "*", "-")
GIGA = 1e9


@dataclass(frozen=True)
class Spot:
    """A step on the chart: FLOPs a byte, and billions of FLOPs a second."""

    intensity: float
    rate: float


def _draw(comparison: Comparison) -> Figure | str:
    cost = comparison.tables["cost"].set_index("method")
    cost = cost[cost["flops"].fillna(0) > 0]
    spots = {name: s for name in (BASE, *comparison.methods) if (s := _spot(comparison, cost, name))}
    if not spots:
        return "no FLOPs of timed steps"
    peak, bandwidth = cost["flops_per_second"].max() / GIGA, cost["bytes_per_second"].max() / GIGA
    lines = [
        comparison.sentence,
        f"Roof: the best product or convolution at these shapes, {peak:.3g} GFLOP/s, and the triad, "
        f"{bandwidth:.3g} GB/s. Bytes are those from outside a step, each once.",
    ]
    figure = new_figure("Roofline of a training step", lines, height_over_legend(list(spots)) + 0.4)
    ax = figure.subplots()
    _roof(ax, list(spots.values()), peak, bandwidth)
    for name, spot in spots.items():
        look = BASE_LOOK if name == BASE else comparison.looks[name]
        style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markeredgecolor": "white"}
        ax.plot([spot.intensity], [spot.rate], linestyle="none", markersize=8, label=name, zorder=3, **style)
    ax.set(xlabel="FLOPs a byte", ylabel="GFLOP/s")
    ax.grid()
    add_legend(figure, ax, list(spots))
    return figure


def _spot(comparison: Comparison, cost: pd.DataFrame, name: str) -> Spot | None:
    """The spot of a step; None if it was not both counted and timed."""
    seconds = _base_seconds(comparison) if name == BASE else comparison.row(name)["seconds"]
    if name not in cost.index or not seconds > 0:
        return None
    flops, moved = (float(cost[column][name]) for column in ("flops", "bytes"))
    return Spot(flops / moved, flops / seconds / GIGA)


def _base_seconds(comparison: Comparison) -> float:
    timed = (comparison.rows["seconds"] / comparison.rows["r"]).dropna()
    return float(timed.iloc[0]) if len(timed) else math.nan


def _roof(ax: Axes, spots: list[Spot], peak: float, bandwidth: float) -> None:
    ridge = peak / bandwidth
    low, high = (end([*(s.intensity for s in spots), ridge]) for end in (min, max))
    corners = [low / 2, ridge, high * 2]
    roof = [min(peak, bandwidth * intensity) for intensity in corners]
    ax.plot(corners, roof, color=GREY, linewidth=1.2, label="roof", zorder=2)
    log_axis(ax, "x", corners)
    log_axis(ax, "y", [*(s.rate for s in spots), *roof])


chart = Chart(_draw, scope="group")
