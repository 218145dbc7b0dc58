"""Validation loss against training seconds and against iterations, with the target and each T."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import log_axis, other_targets
from fgbench.charts.drawing.seeds import SeedCurves, seed_curves
from fgbench.charts.drawing.style import INK, Look, add_legend, height_over_legend, new_figure
from fgbench.measurement.statistics import expected_running_time
from fgbench.report.figures import missing

PANELS = {  # column of curves.csv: its label, the column of targets.csv
    "train_seconds": ("Training seconds (evaluation excluded)", "seconds"),
    "iteration": ("Iterations", "iterations"),
}
LOG_SPAN = 5  # a loss that falls by more is on a logarithmic axis
ABOVE_START = 1.5  # losses this far above the start, on their way to divergence, are cut off
T_LABEL = "T, in the method's colour"


def _draw(comparison: Comparison) -> Figure | str:
    found = {
        against: {m: c for m in comparison.methods if (c := seed_curves(comparison, m, against))}
        for against in PANELS
    }
    curves = found["iteration"]
    if not curves:
        return "no training"
    lines = [comparison.sentence, _small_print(comparison, curves)]
    height = height_over_legend(comparison.methods)
    figure = new_figure("Validation loss against seconds and against iterations", lines, height)
    panels = figure.subplots(1, 2, sharey=True)
    low, high = _limits(curves)
    for ax, (against, (label, spent)) in zip(panels, PANELS.items(), strict=True):
        for method, curve in found[against].items():
            _draw_curve(ax, curve, comparison.looks[method], method, high)
        furthest = max(x for c in found[against].values() for x in (c.x[-1], *(end for end, _ in c.ends)))
        ax.set_xlim(0, furthest * 1.02 or 1)
        _mark_target(ax, comparison, spent)
        ax.set_xlabel(label)
        ax.grid(axis="y")
    _scale(panels[0], low, high)
    panels[0].set_ylabel("Validation loss (nats)")
    add_legend(figure, panels[0], comparison.methods)
    return figure


def _small_print(comparison: Comparison, curves: dict[str, SeedCurves]) -> str:
    seeds = comparison.tables["curves"]["seed"].nunique()
    spread = f"Median over {seeds} seeds, band from the lowest to the highest." if seeds > 1 else "One seed."
    diverged = ", ".join(f"{method} in {len(c.ends)} of {seeds}" for method, c in curves.items() if c.ends)
    lost = f"Diverged (×): {diverged}." if diverged else ""
    return " ".join(filter(None, (spread, lost, other_targets(comparison))))


def _draw_curve(ax: Axes, curve: SeedCurves, look: Look, method: str, high: float) -> None:
    median = np.where(np.isfinite(curve.median), curve.median, np.nan)
    ax.plot(curve.x, median, color=look.colour, linestyle=look.line, label=method, zorder=3)
    visible = np.where(np.isfinite(curve.high), curve.high, high * 10)
    band: dict[str, Any] = {
        "where": np.isfinite(curve.low),
        "color": look.colour,
        "alpha": 0.18,
        "linewidth": 0,
    }
    ax.fill_between(curve.x, curve.low, visible, **band)
    cross: dict[str, Any] = {
        "marker": "x",
        "markersize": 8,
        "markeredgewidth": 2,
        "linestyle": "none",
        "clip_on": False,
        "in_layout": False,
    }
    for x, y in curve.ends:
        ax.plot([x], [min(y, high)], color=look.colour, zorder=4, label="_diverged", **cross)


def _mark_target(ax: Axes, comparison: Comparison, spent: str) -> None:
    """Draw the target as a line, and on it the time at which each method is expected to reach it."""
    targets = comparison.tables["targets"]
    if targets.empty or missing(target := targets["target_loss"].iloc[0]):
        return
    ax.axhline(target, color=INK, linewidth=0.9, linestyle=(0, (1, 2)), label=f"target {target:g}")
    mark: dict[str, Any] = {
        "markersize": 8,
        "linestyle": "none",
        "markeredgecolor": INK,
        "markeredgewidth": 0.9,
    }
    onto_edges: dict[str, Any] = {"clip_on": False, "in_layout": False, "zorder": 5}
    for method, own in targets.groupby("method"):
        reached = list(own["outcome"] == "reached")
        expected = expected_running_time([float(x) for x in own[spent]], reached)
        if expected <= ax.get_xlim()[1]:
            look = comparison.looks[str(method)]
            ax.plot(
                [expected],
                [target],
                look.marker,
                color=look.colour,
                label=f"_T {method}",
                **mark,
                **onto_edges,
            )
    ax.plot([], [], "o", color="white", label=T_LABEL, **mark)


def _limits(curves: dict[str, SeedCurves]) -> tuple[float, float]:
    """The lowest loss, and the highest that is worth showing."""
    low = min(float(curve.low.min()) for curve in curves.values())
    start = max(float(curve.high[np.isfinite(curve.high)][0]) for curve in curves.values())
    high = max(float(curve.high[np.isfinite(curve.high)].max()) for curve in curves.values())
    return low, min(high, start * ABOVE_START)


def _scale(ax: Axes, low: float, high: float) -> None:
    if low > 0 and high / low > LOG_SPAN:
        log_axis(ax, "y", [low, high])
    else:
        ax.set_ylim(min(0, low), high * 1.05)


chart = Chart(_draw, scope="group")
