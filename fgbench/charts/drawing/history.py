"""The chart of `fgbench history`: a ratio run by run, its mean between changes, and each change's commit."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from fgbench.charts.drawing.style import BLUE, COLOURS, INK, new_figure
from fgbench.regression.history import Series

MOST_LABELS = 12


def draw_history(series: Series) -> Figure:
    """Draw one series over time, with runs evenly spaced and labelled with day and commit."""
    entry = series.points[-1].entry
    where = (
        f"{entry.device}, {entry.threads} thread{'s' * (entry.threads != '1')}"
        if entry.threads
        else entry.device
    )
    lines = [
        f"{entry.label} · {entry.dataset} · {entry.dtype}, {entry.execution}, {entry.optimizer} · {where}",
        "Points: a run, with its 95 % interval over processes. Lines: the mean between change points.",
    ]
    figure = new_figure(f"Runtime ratio to {entry.reference}, run by run", lines, 2.8)
    ax = figure.subplots()
    entries = [point.entry for point in series.points]
    ax.errorbar(
        range(len(entries)),
        [c.ratio for c in entries],
        yerr=[[c.ratio - c.low for c in entries], [c.high - c.ratio for c in entries]],
        color=BLUE,
        marker="o",
        markersize=4,
        linestyle="none",
        elinewidth=0.9,
        zorder=3,
    )
    for stretch in series.stretches:
        level = series.level(stretch).value
        ax.hlines(level, stretch[0] - 0.4, stretch[1] - 0.6, color=INK, linewidth=1.2, zorder=2)
    for change in series.changes:
        ax.axvline(change.at - 0.5, color=COLOURS[0], linewidth=1.1, linestyle="--", zorder=1)
        point = series.points[change.at]
        ax.annotate(
            f"{change.change.value - 1:+.1%}\n{point.commit or point.started[:10]}",
            (change.at - 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            size=8,
            color=COLOURS[0],
        )
    step = -(-len(entries) // MOST_LABELS)
    places = list(range(0, len(entries), step))
    ax.xaxis.set_major_locator(FixedLocator(places))
    ax.set_xticklabels([_when(series, place) for place in places], rotation=40, ha="right")
    ax.set_ylabel(f"Step time / {entry.reference}'s")
    ax.grid(axis="y")
    ax.margins(x=0.02)
    return figure


def _when(series: Series, place: int) -> str:
    point = series.points[place]
    return f"{point.started[5:16].replace('T', ' ')} {point.commit}".strip()
