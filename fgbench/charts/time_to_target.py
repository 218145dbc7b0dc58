"""T of every method: expected training seconds to the target, and the time of each seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import (
    ROW_INCHES,
    beside,
    log_axis,
    name_rows,
    other_targets,
    point,
    reach,
    row_inches,
)
from fgbench.charts.drawing.style import GREY, Look, new_figure
from fgbench.report.figures import missing, number, target_words
from fgbench.summary.targets import CENSORED, DIVERGED, REACHED

LOG_SPAN = 10
SEEDS_BELOW = 0.3  # seeds are drawn this share of a row lower, so that they do not hide the estimate
CUT = "One without an end mark goes on beyond the edge. "
INTERVAL_REACH = 4  # an interval that extends beyond all figures by this factor is cut off at the edge
ARROW_POINTS = 18  # length of the arrow at a censored seed
NOTE = (
    "Large mark: seconds of all runs over the runs that reached it (ERT), 95 % interval over seeds and where "
    "their evaluations fell."
)


def _draw(comparison: Comparison) -> Figure | str:
    if comparison.tables["targets"].empty:
        return "no training" if comparison.tables["curves"].empty else "no target"
    groups = [group for group in comparison.by_depth if not group.tables["targets"].empty]
    title = f"Time to target T{' by depth' * (len(groups) > 1)}: expected training seconds"
    rows = [len(group.methods) for group in groups]
    row = max([1.2 * ROW_INCHES, *(row_inches(group.methods) for group in groups)])
    height = 0.55 + sum(0.42 + row * count for count in rows)
    span = _Span.of(comparison)
    note = f"{NOTE} {CUT * span.cut}{other_targets(comparison)}"
    figure = new_figure(title, [comparison.sentence, note], height)
    panels = figure.subplots(len(groups), 1, sharex=True, squeeze=False, height_ratios=rows)[:, 0]
    for ax, group in zip(panels, groups, strict=True):
        _draw_group(ax, group)
        depth = f"depth {group.depths[0]}, " if len(groups) > 1 else ""
        target = target_words(group.tables["targets"].iloc[0])
        ax.set_title(f"{depth}to {target}", loc="left", size=8.5)
    span.scale(panels[-1])
    panels[-1].set_xlabel("Training seconds (evaluation excluded)")
    figure.legend(handles=_keys(), loc="outside lower center", ncols=3)
    return figure


def _draw_group(ax: Axes, group: Comparison) -> None:
    targets = group.tables["targets"]
    for place, method in enumerate(group.methods):
        row, look = group.row(method), group.looks[method]
        if missing(row["runs"]):
            beside(ax, place, "no run" if row["status"] == "ok" else f"no run ({row['status']})")
            continue
        if math.isfinite(row["t"]):
            point(ax, row["t"], place, reach(row.to_frame().T, "t"), look, method)
        _draw_seeds(ax, targets[targets["method"] == method], place + SEEDS_BELOW, look)
        beside(ax, place, _figures(row))
    name_rows(ax, group.methods)


def _draw_seeds(ax: Axes, targets: pd.DataFrame, place: float, look: Look) -> None:
    """Draw a mark for each seed.

    It is filled if the seed reached the target, hollow with an arrow if it ended before, and a cross if it
    diverged.
    """
    arrow: dict[str, Any] = {"arrowstyle": "<-", "color": look.colour, "shrinkA": 0, "shrinkB": 3}
    kinds = (([REACHED], ".", look.colour), ([CENSORED], ".", "white"), ([DIVERGED], "x", look.colour))
    for outcomes, marker, fill in kinds:
        own = targets[targets["outcome"].isin(outcomes)]["seconds"].astype(float)
        dots: dict[str, Any] = {"marker": marker, "markersize": 8 if marker == "." else 5, "zorder": 4}
        dots |= {"linestyle": "none", "color": look.colour, "markerfacecolor": fill}
        ax.plot(own, [place] * len(own), label=f"_{outcomes[0]}", **dots)
        for seconds in own if CENSORED in outcomes else ():
            end: dict[str, Any] = {"xytext": (ARROW_POINTS, 0), "textcoords": "offset points"}
            ax.annotate("", (seconds, place), arrowprops=arrow, zorder=3, **end)


def _figures(row: pd.Series) -> str:
    reached = f"{int(row['reached'])} of {int(row['runs'])} reached"
    spent = f"{number(row['t'], row['t_low'], row['t_high'])} s\n"
    return f"{spent}{reached}" if math.isfinite(row["t"]) else reached


@dataclass(frozen=True)
class _Span:
    """What the axis has to show: all times, and the intervals' ends that are not too far from them."""

    times: Sequence[float]
    ends: Sequence[float]

    @classmethod
    def of(cls, comparison: Comparison) -> _Span:
        seeds = [float(x) for x in comparison.tables["targets"]["seconds"].dropna()]
        ends = comparison.rows[["t_low", "t_high"]].to_numpy().ravel()
        times = [*seeds, *(t for t in comparison.rows["t"].dropna() if math.isfinite(t))]
        return cls(times, [float(x) for x in ends if math.isfinite(x)])

    @property
    def logarithmic(self) -> bool:
        return 0 < min(self.times) * LOG_SPAN < max(self.times)

    @property
    def drawn(self) -> list[float]:
        """The values that the axis reaches to."""
        low, high = min(self.times) / INTERVAL_REACH, max(self.times) * INTERVAL_REACH
        return [*self.times, *(x for x in self.ends if low <= x <= high)]

    @property
    def cut(self) -> bool:
        """Whether an interval goes on beyond the edge."""
        ends = [x for x in self.ends if self.logarithmic or x > max(self.times)]
        return any(x not in self.drawn for x in ends)

    def scale(self, ax: Axes) -> None:
        if self.logarithmic:
            log_axis(ax, "x", self.drawn)
        else:
            ax.set_xlim(0, max(self.drawn) * 1.08 or 1)


def _keys() -> Sequence[Line2D]:
    filled = Line2D([], [], linestyle="none", marker=".", markersize=8, color=GREY)
    hollow = Line2D([], [], linestyle="none", marker=".", markersize=8, color=GREY, markerfacecolor="white")
    cross = Line2D([], [], linestyle="none", marker="x", markersize=5, color=GREY)
    filled.set_label("a seed that reached it")
    hollow.set_label("ended before (longer than)")
    cross.set_label("diverged (never)")
    return [filled, hollow, cross]


chart = Chart(_draw)
