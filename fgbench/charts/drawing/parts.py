"""Parts that charts share: lines over depth, rows of methods, axes, and notes on what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.style import GREY, INK, Look, folded
from fgbench.report.figures import interval, missing, number, target_words
from fgbench.summary.targets import TARGET

ROW_INCHES = 0.42  # height of a row where each method is a row
NAME_LINE_INCHES = 0.155  # height of a line of a row's name, with what keeps two names apart
AXIS_INCHES = 0.75  # height of the axis below the rows and of the names above them
NICE = (1, 1.5, 2, 3, 4, 5, 7)  # where ticks may be within a power of ten
FEWEST_TICKS, MOST_EVEN_TICKS, MOST_TICKS = 3, 6, 9


def lines_by_depth(
    ax: Axes,
    comparison: Comparison,
    column: str,
    methods: Sequence[str],
    unit: float = 1,
    labels: Mapping[str, str] | None = None,
) -> None:
    """Draw a line for each method over depth, in `unit`s, with the interval of `column` where it has one.

    A method is called by its name in the legend, or as `labels` says.
    """
    for method in methods:
        own = comparison.rows[comparison.rows["method"] == method].dropna(subset=[column])
        if own.empty:
            continue
        look = comparison.looks[method]
        ax.errorbar(
            own["depth"].astype(int),
            own[column] / unit,
            yerr=reach(own, column),
            color=look.colour,
            marker=look.marker,
            linestyle=look.line if len(own) > 1 else "none",
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=(labels or {}).get(method, method),
            zorder=3,
        )


def rows_height(methods: Sequence[str]) -> float:
    """The height in inches of a figure whose rows are methods, with options on lines of their own."""
    return AXIS_INCHES + row_inches(methods) * len(methods)


def row_inches(methods: Sequence[str]) -> float:
    """The height of each row, at which no name of several lines runs into the next one or into the axis."""
    lines = [folded(method).count("\n") + 1 for method in methods]
    neighbours = [(one + other) / 2 for one, other in pairwise(lines)]
    return max([ROW_INCHES, *(NAME_LINE_INCHES * most for most in (*neighbours, lines[0], lines[-1]))])


def paper_line(
    ax: Axes, depths: Sequence[int], values: Sequence[float], label: str, dots: bool = False
) -> None:
    """Draw a published curve: thin, grey, without markers."""
    ax.plot(depths, values, color=GREY, linewidth=1.1, linestyle=":" if dots else "--", label=label, zorder=2)


def labels_with_figures(comparison: Comparison, column: str, methods: Sequence[str]) -> dict[str, str]:
    """Each method of a single group with its figure, for a legend: points of one depth lie on each other."""
    return {m: f"{m}  {_figure(comparison.row(m), column)}" for m in methods}


def _figure(row: pd.Series, column: str) -> str:
    cells = row[column], row[f"{column}_low"], row[f"{column}_high"]
    return f"{number(*cells)} {interval(*cells)}"


def rows_of_methods(ax: Axes, comparison: Comparison, column: str, methods: Sequence[str]) -> None:
    """Draw a row for each method of a single group: point, interval, and both as figures at the right."""
    for place, method in enumerate(methods):
        row = comparison.row(method)
        if missing(row[column]):
            beside(ax, place, "not measured")
            continue
        point(ax, row[column], place, reach(row.to_frame().T, column), comparison.looks[method], method)
        beside(ax, place, _figure(row, column))
    name_rows(ax, methods)


def point(
    ax: Axes, x: float, y: float, reach: list[list[float]] | None, look: Look, label: str | None
) -> None:
    """Draw a method's point with its interval along x."""
    ax.errorbar(
        [x],
        [y],
        xerr=reach,
        color=look.colour,
        marker=look.marker,
        markersize=7,
        linestyle="none",
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=label,
        zorder=3,
    )


def bars(ax: Axes, comparison: Comparison, column: str, text: Callable[[Any], str], unit: float = 1) -> None:
    """Draw a row for each method of a single group: a bar in `unit`s, and `text` of its figure."""
    for place, method in enumerate(comparison.methods):
        value = comparison.row(method)[column]
        if missing(value):
            beside(ax, place, "not measured")
            continue
        ax.barh(place, value / unit, height=0.5, color=comparison.looks[method].colour, label=method)
        beside(ax, place, text(value))
    name_rows(ax, comparison.methods)


def stacked_bars(
    figure: Figure,
    ax: Axes,
    stacks: Mapping[str, Mapping[str, float]],
    shades: Mapping[str, str],
    text: Callable[[float], str],
) -> None:
    """Draw a row for each method: its pieces end to end, in the order of `shades`, with a legend below.

    Args:
        figure: gets the legend.
        ax: gets the bars.
        stacks: the size of each piece, by method and by piece.
        shades: a colour for each piece.
        text: gives the text at the right for the sum of a method's pieces.
    """
    for place, pieces in enumerate(stacks.values()):
        left = 0.0
        for piece in (p for p in shades if p in pieces):
            ax.barh(
                place,
                pieces[piece],
                left=left,
                height=0.5,
                color=shades[piece],
                edgecolor="white",
                linewidth=0.6,
            )
            left += pieces[piece]
        beside(ax, place, text(left))
    name_rows(ax, list(stacks))
    present = [piece for piece in shades if any(piece in pieces for pieces in stacks.values())]
    for piece in present:
        ax.barh([0], [0], color=shades[piece], label=piece)
    ax.set_xlim(0, max(sum(pieces.values()) for pieces in stacks.values()) * 1.03)
    figure.legend(loc="outside lower center", ncols=min(len(present), 5), frameon=False)


def name_rows(ax: Axes, names: Sequence[str], fold: Callable[[str], str] = folded) -> None:
    """Name the rows on the y axis, the first on top; long ones are folded, as those of methods by default."""
    ax.set_yticks(range(len(names)), [fold(name) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")


def beside(ax: Axes, place: float, text: str) -> None:
    """Write a row's figures to the right of the axes."""
    ax.annotate(
        text, (1.02, place), xycoords=("axes fraction", "data"), va="center", size=8.5, annotation_clip=False
    )


def depth_axis(ax: Axes, depths: Sequence[int]) -> None:
    """Make a logarithmic axis of depth, with ticks at the measured depths, or at round ones."""
    lowest, highest = min(depths), max(depths)
    ax.set_xscale("log")
    ax.set_xlim(lowest / 1.15, highest * 1.15)
    round_ones = [
        d * 10**power for power in range(5) for d in (1, 2, 5) if lowest <= d * 10**power <= highest
    ]
    ticks = sorted(set(depths)) if len(set(depths)) <= MOST_TICKS else round_ones
    _plain_ticks(ax, "x", [float(tick) for tick in ticks])
    ax.set_xlabel("Depth")
    ax.grid(axis="y")


def log_axis(ax: Axes, which: str, values: Sequence[float], most: int = MOST_TICKS) -> None:
    """Make an axis logarithmic, with room around the values and plain numbers as labels, at most so many."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.08, 1.08)
    low, high = low / room, high * room
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    nice = [n * 10.0**power for power in powers for n in NICE if low <= n * 10.0**power <= high]
    if len(nice) < FEWEST_TICKS:  # so short an axis is nearly linear
        even = MaxNLocator(MOST_EVEN_TICKS, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        nice = [tick for tick in even if low <= tick <= high]
    for kept in ((1, 2, 5), (1,)):
        if len(nice) > most:
            nice = [t for t in nice if round(t / 10 ** math.floor(math.log10(t) + 1e-9), 6) in kept]
    getattr(ax, f"set_{which}scale")("log")
    getattr(ax, f"set_{which}lim")(low, high)
    _plain_ticks(ax, which, nice)


def reference_line(ax: Axes, at: float, text: str, *, vertical: bool) -> None:
    """Draw a thin line across the axes, with its name at its end, outside of the data."""
    style: dict[str, Any] = {"textcoords": "offset points", "size": 8}
    if vertical:
        ax.axvline(at, color=INK, linewidth=0.9, zorder=1)
        frames = ("data", "axes fraction")
        ax.annotate(text, (at, 1), xycoords=frames, xytext=(0, 2), ha="center", va="bottom", **style)
    else:
        ax.axhline(at, color=INK, linewidth=0.9, zorder=1)
        frames = ("axes fraction", "data")
        ax.annotate(text, (1, at), xycoords=frames, xytext=(4, 0), ha="left", va="center", **style)


def basis(comparison: Comparison) -> str:
    """A sentence that says what the intervals of timed figures are based on."""
    rows = comparison.rows.dropna(subset=["processes"])
    low, high = int(rows["processes"].min()), int(rows["processes"].max())
    if high == 1:
        return "95 % intervals over the rounds of ONE process: the spread between processes is left out."
    return f"95 % intervals over {low if low == high else f'{low} to {high}'} processes."


def other_targets(comparison: Comparison) -> str:
    """A sentence on the targets that a chart of the headline target leaves out; empty if there are none."""
    keys = ["run", "group", *TARGET]
    every, drawn = (
        {(row["run"], row["group"], target_words(row)) for _, row in rows.iterrows()}
        for rows in (comparison.tables[name][keys].drop_duplicates() for name in ("every_target", "targets"))
    )
    left = sorted({words for *_, words in every - drawn})
    if len(left) > 1:
        return f"{len(left)} other targets are in targets.csv."
    return f"The other target, {left[0]}, is in targets.csv." if left else ""


def failures(comparison: Comparison, column: str) -> str:
    """A sentence that says which methods have no figure, and why; empty where all have one."""
    lost = comparison.rows[comparison.rows[column].isna() & (comparison.rows["status"] != "ok")]
    texts = [f"{row['method']} at depth {row['depth']} ({row['status']})" for _, row in lost.iterrows()]
    return f"Without a figure: {'; '.join(texts)}." if texts else ""


def spread_of(rows: pd.DataFrame, column: str) -> list[float]:
    """All finite values of a figure and of its interval's ends."""
    ends = [f"{column}_low", column, f"{column}_high"]
    values = pd.concat([rows[name] for name in ends if name in rows])
    return [float(value) for value in values.dropna() if math.isfinite(value)]


def reach(rows: pd.DataFrame, column: str) -> list[list[float]] | None:
    """How far the interval extends below and above each value; 0 where there is no interval."""
    if f"{column}_low" not in rows:
        return None
    value = rows[column]
    below, above = value - rows[f"{column}_low"], rows[f"{column}_high"] - value
    if below.isna().all():
        return None
    return [list(below.fillna(0).clip(lower=0)), list(above.fillna(0).clip(lower=0))]


def _plain_ticks(ax: Axes, which: str, ticks: Sequence[float]) -> None:
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
