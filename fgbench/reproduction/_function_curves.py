"""Chart of one function in n dimensions: its value over iterations and seconds, and for n = 2 the paths."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fgbench import functions
from fgbench.charts.drawing.style import GREY, INK, Look, add_legend, height_over_legend, looks_of, new_figure
from fgbench.reproduction._function_style import FLOOR, HOLLOW, PAPERS

CONTOURS, GRID = 16, 160  # contour lines, and grid points along each side of the plane
ROOM = 0.35  # room left around the box that holds start and minimum, as a share of its size
PLANE_INCHES = 1.2  # extra height for the panel of paths
ROUNDING = 1e-13  # error of a difference of two values, as a share of the values
HUGE = 1e100  # matplotlib overflows not far beyond
OVER_START = 5  # the value axis ends at so many times the value at the start
FURTHEST = 1.5  # a path is cut off this far from the box's centre, as a multiple of its size


def curves_chart(name: str, n: int, rows: pd.DataFrame, claims: Mapping[str, float]) -> Figure:
    """The value over iterations and over seconds; in the plane also the paths, over contours.

    Args:
        name: of the function.
        n: dimensions.
        rows: the rows of functions.csv for this function and n.
        claims: the paper's values, by figure key.
    """
    methods = list(dict.fromkeys(rows["method"]))
    looks = looks_of(methods)
    seeds = rows.groupby("method")["seed"].nunique()
    lines = [
        f"{functions.find(name).summary}. Median of up to {seeds.max()} seeds, band from the lowest to the "
        f"highest; ◇ {PAPERS} last value. {'Paths of seed 0. ' if n == 2 else ''}{_diverged(rows)}"
    ]
    height = height_over_legend(methods) + (PLANE_INCHES if n == 2 else 0)
    figure = new_figure(f"Descent on {name}, n = {n}", lines, height)
    layout = [["path", "iteration"], ["path", "seconds"]] if n == 2 else [["iteration", "seconds"]]
    panels = figure.subplot_mosaic(layout, width_ratios=[1.25, 1])  # type: ignore[arg-type]
    lowest = functions.find(name).minimum(n)
    for against, label in (("iteration", "Iterations"), ("seconds", "Seconds (steps alone)")):
        ax = panels[against]
        for method, own in rows.groupby("method", sort=False):
            _curve(ax, own, against, lowest, looks[str(method)], str(method))
        ax.set_yscale("log")
        ax.set_ylim(*_limits(rows, lowest))
        ax.set_xlabel(label)
        ax.set_ylabel("f − minimum" if lowest else "f")
        ax.grid(axis="y")
    for method in methods:
        claim = claims.get(f"{name}/{n}/{method}/final", lowest)
        if claim > lowest:
            end = rows["iteration"].max()
            panels["iteration"].plot([end], [claim - lowest], color=looks[method].colour, **HOLLOW)
    if n == 2:
        _paths(panels["path"], name, rows, looks)
    add_legend(figure, panels["iteration"], methods)
    return figure


def _limits(rows: pd.DataFrame, lowest: float) -> tuple[float, float]:
    """The value axis, from the lowest value to a little above the start; runs that diverge leave it there."""
    above = _above(rows, lowest)
    start = float(above[rows["iteration"] == 0].max())
    return float(above.min()) / 2, start * OVER_START


def _curve(ax: Axes, rows: pd.DataFrame, against: str, lowest: float, look: Look, label: str) -> None:
    above = rows.assign(value=_above(rows, lowest))
    values = above.pivot(index="iteration", columns="seed", values="value")
    values = values.fillna(math.inf)  # a run has no further rows once it has diverged
    x = rows.groupby("iteration")[against].median()
    median = values.median(axis=1)
    shown = np.isfinite(median)
    ax.plot(x[shown], median[shown], color=look.colour, linestyle=look.line, label=label)
    low, high = values.min(axis=1), values.max(axis=1)
    both = np.isfinite(low) & np.isfinite(high)
    ax.fill_between(x[both], low[both], high[both], color=look.colour, alpha=0.18, linewidth=0)


def _above(rows: pd.DataFrame, lowest: float) -> pd.Series:
    """The values' distance from the minimum, at least the error of rounding; inf if far above any axis."""
    above = (rows["value"] - lowest).clip(lower=max(FLOOR, ROUNDING * abs(lowest)))
    return above.mask(above > HUGE, math.inf)


def _diverged(rows: pd.DataFrame) -> str:
    lost = rows[np.isinf(rows["value"])].groupby("method", sort=False).size()
    texts = [f"{method} in {runs} runs" for method, runs in lost.items()]
    return f"Diverged: {', '.join(texts)}." if texts else ""


def _paths(ax: Axes, name: str, rows: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    function = functions.find(name)
    ends = torch.stack([function.start(2), function.minimizer(2)]).numpy()
    centre, size = ends.mean(axis=0), max(np.ptp(ends, axis=0).max(), 1.0)
    first = rows[(rows["seed"] == 0) & np.isfinite(rows["value"])]
    points = first[["x0", "x1"]].to_numpy(float).clip(centre - FURTHEST * size, centre + FURTHEST * size)
    reached = np.concatenate([ends, points])
    low, high = reached.min(axis=0) - ROOM * size, reached.max(axis=0) + ROOM * size
    _contours(ax, function, low, high)
    for method, run in first.groupby("method", sort=False):
        look = looks[str(method)]
        ax.plot(run["x0"], run["x1"], color=look.colour, linestyle=look.line, linewidth=1.2, zorder=3)
    ax.plot(*ends[0], "o", color=INK, zorder=5)
    ax.plot(*ends[1], "*", color=INK, markersize=10, zorder=5)
    for at, text in zip(ends, ("start", "minimum"), strict=True):
        ax.annotate(text, at, xytext=(5, -11), textcoords="offset points", size=8.5, zorder=5)
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(low[1], high[1])
    ax.set_xlabel("x")
    ax.set_ylabel("y")


def _contours(ax: Axes, function: functions.Function, low: np.ndarray, high: np.ndarray) -> None:
    x, y = (np.linspace(a, b, GRID) for a, b in zip(low, high, strict=True))
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2))
    above = torch.func.vmap(function.value)(grid).numpy() - function.minimum(2)
    above = above.clip(FLOOR).reshape(GRID, GRID)
    levels = np.geomspace(np.quantile(above, 0.002), np.max(above), CONTOURS)
    ax.contour(x, y, above, levels=levels, colors=GREY, linewidths=0.5, alpha=0.7, zorder=1)
