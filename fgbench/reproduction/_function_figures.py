"""Chart of one function's figures: over the number of dimensions, or by method if there is only one n."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from fgbench import functions
from fgbench.charts.drawing.parts import name_rows
from fgbench.charts.drawing.style import INK, LINE_INCHES, Look, add_legend, looks_of, new_figure
from fgbench.measurement.statistics import Estimate
from fgbench.reproduction._function_style import FLOOR, HOLLOW, PAPERS

PANELS = {"final": "Last value", "best": "Lowest value", "time_ratio": "Step time over backprop's"}
MOST_TICKS = 6  # on the axis of dimensions
FEW_TICKS = 4  # on the axis of values
MANY_TICKS_SPAN = 200  # above this ratio of high to low, ticks at powers of ten are enough
AXES_INCHES, LEGEND_INCHES = 0.9, 0.22
LETTERS_A_NAME = 30  # a longer method name is broken into lines

Found = Mapping[str, Estimate]


def figures_chart(
    name: str, sizes: Sequence[int], methods: Sequence[str], found: Found, claims: Mapping[str, float]
) -> Figure:
    """The last value, the lowest value and the time ratio of every method.

    Args:
        name: of the function.
        sizes: the numbers of dimensions that were run.
        methods: the methods' specs.
        found: what was measured, by figure key.
        claims: the paper's values, by figure key.
    """
    papers = {key: Estimate(value) for key, value in claims.items()}
    looks, over_n = looks_of(methods), len(sizes) > 1
    labels = [textwrap.fill(method.replace(",", ", "), LETTERS_A_NAME) for method in methods]
    row = 0.1 + LINE_INCHES * max(1 + label.count("\n") for label in labels)
    height = 2.4 + LEGEND_INCHES * len(methods) if over_n else AXES_INCHES + row * len(methods)
    title = f"{name} by dimensions" if over_n else f"{name}, n = {sizes[0]}"
    figure = new_figure(title, _small_print(name, found), height)
    axes = figure.subplots(1, len(PANELS), sharey=not over_n)
    for ax, what in zip(axes, PANELS, strict=True):
        panel = _Panel(ax, name, what, sizes)
        for place, method in enumerate(methods):
            panel.add(method, place, found, _measured(looks[method]), label=method)
            panel.add(method, place, papers, {**HOLLOW, "color": looks[method].colour}, label=None)
        panel.finish()
    if over_n:
        add_legend(figure, axes[0], methods)
    else:
        name_rows(axes[0], methods)
        axes[0].set_yticks(range(len(labels)), labels)
        for ax in axes[1:]:
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="x")
    return figure


class _Panel:
    """One figure of all methods: on the y axis over n, or on the x axis with a row for each method."""

    def __init__(self, ax: Axes, name: str, what: str, sizes: Sequence[int]) -> None:
        self.ax, self.name, self.what, self.sizes = ax, name, what, sizes
        self.over_n = len(sizes) > 1
        from_zero = functions.find(name).minimum(sizes[0]) == 0
        self.logarithmic = from_zero or what == "time_ratio"
        self.per_n = self.over_n and not self.logarithmic
        self.values: list[float] = []

    def add(self, method: str, place: int, found: Found, style: Mapping[str, Any], label: str | None) -> None:
        """Draw a method's points with their intervals; a missing or infinite value is left out."""
        keys = {n: f"{self.name}/{n}/{method}/{self.what}" for n in self.sizes}
        shown = {n: found[key] for n, key in keys.items() if key in found and math.isfinite(found[key].value)}
        if not shown:
            if self.over_n and label:
                self.ax.plot([], [], label=label, **style)
            return
        values = [self._scaled(e.value, n) for n, e in shown.items()]
        self.values += values
        reach = [
            [_reach(v - self._scaled(e.low, n)) for v, (n, e) in zip(values, shown.items(), strict=True)],
            [_reach(self._scaled(e.high, n) - v) for v, (n, e) in zip(values, shown.items(), strict=True)],
        ]
        error = reach if np.any(reach) else None
        if self.over_n:
            self.ax.errorbar(list(shown), values, yerr=error, label=label, **style)
        else:
            self.ax.errorbar(values, [place], xerr=error, **{**style, "linestyle": "none"})

    def finish(self) -> None:
        """Set the axes' scales, ticks and labels, once all methods are drawn."""
        label = PANELS[self.what] + (" / n" if self.per_n else "")
        if self.what == "time_ratio":
            (self.ax.axhline if self.over_n else self.ax.axvline)(1, color=INK, linewidth=0.9, zorder=1)
        if self.logarithmic and self.values:
            _log_axis(self.ax, "y" if self.over_n else "x")
        if not self.over_n:
            self.ax.set_xlabel(label.replace(" over ", " over\n"))  # a third of the width holds no more
            return
        self.ax.set_title(label, size=9)
        self.ax.set_xscale("log", base=2)
        ticks = self.sizes[:: -(-len(self.sizes) // MOST_TICKS)]
        self.ax.xaxis.set_major_locator(FixedLocator(list(ticks)))
        self.ax.xaxis.set_minor_locator(NullLocator())
        self.ax.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        self.ax.set_xlabel("n")
        self.ax.grid(axis="y")

    def _scaled(self, value: float, n: int) -> float:
        return max(value, FLOOR) if self.logarithmic else value / n if self.per_n else value


def _log_axis(ax: Axes, which: str) -> None:
    """Make an axis logarithmic, with ticks at powers of ten, or at plain numbers on a short axis."""
    getattr(ax, f"set_{which}scale")("log")
    low, high = getattr(ax, f"get_{which}lim")()
    axis = getattr(ax, f"{which}axis")
    axis.set_minor_locator(NullLocator())
    if high / low > MANY_TICKS_SPAN:
        axis.set_major_locator(LogLocator(numticks=FEW_TICKS))
        return
    inner = np.geomspace(low, high, 2 * FEW_TICKS - 1)[1::2]
    axis.set_major_locator(FixedLocator(sorted({float(f"{tick:.1g}") for tick in inner})))
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))


def _measured(look: Look) -> dict[str, Any]:
    return {
        "color": look.colour,
        "marker": look.marker,
        "linestyle": look.line,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "zorder": 3,
    }


def _reach(length: float) -> float:
    """The length of an error bar to one side; 0 where the interval is unknown or infinite."""
    return max(length, 0.0) if math.isfinite(length) else 0.0


def _small_print(name: str, found: Found) -> list[str]:
    lost = [key for key, e in found.items() if key.startswith(f"{name}/") and math.isinf(e.value)]
    last = [key.split("/", 1)[1].rsplit("/", 1)[0] for key in lost if key.endswith("/final")]
    return [
        f"{functions.find(name).summary}. Medians over seeds with 95 % intervals where there are 6 or more; "
        f"hollow: {PAPERS}. What is below {FLOOR:g} is drawn there.",
        "Steps were timed in ONE process: the spread between processes is left out.",
        f"Diverged in the median: {'; '.join(last)}." if last else "",
    ]
