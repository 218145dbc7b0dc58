"""The chart of `fgbench compare`: every change with its interval, in a row of its own."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fgbench.charts.drawing.parts import ROW_INCHES, beside, name_rows, reference_line
from fgbench.charts.drawing.style import BLUE, COLOURS, GREY, new_figure
from fgbench.regression.difference import Difference

SHADES = {"more": COLOURS[0], "less": BLUE}  # grey: not known to have moved


def draw_changes(differences: Sequence[Difference], a: str, b: str) -> Figure:
    """A forest plot of the relative changes from A to B; a change without an interval is a bare point.

    Args:
        differences: the differences to draw, each with a change.
        a, b: the names of the two sides.
    """
    lines = [
        f"A: {a}. B: {b}.",
        "95 % intervals where there are any. Right of 0: more time or memory in B.",
    ]
    figure = new_figure("What changed from A to B", lines, 1.0 + ROW_INCHES * len(differences))
    ax = figure.subplots()
    for place, difference in enumerate(differences):
        change = difference.change
        ends = [[change.value - change.low], [change.high - change.value]] if change.has_interval else None
        ax.errorbar(
            [change.value - 1],
            [place],
            xerr=ends,
            color=SHADES.get(difference.words, GREY),
            marker="o",
            markersize=6,
            linestyle="none",
            zorder=3,
        )
        beside(ax, place, f"{change.value - 1:+.1%}  {difference.words}")
    name_rows(ax, [f"{difference.label}\n{difference.figure}" for difference in differences])
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("Change from A to B")
    reference_line(ax, 0.0, "no change", vertical=True)
    return figure
