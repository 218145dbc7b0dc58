"""Reading a figure: its lines by label, its words, its colours."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text


def line(ax: Axes, label: str) -> Line2D:
    """The line, or the points of the error bars, of that label."""
    lines = {str(one.get_label()): one for one in ax.lines}
    bars = {str(c.get_label()): c.lines[0] for c in ax.containers if isinstance(c, ErrorbarContainer)}
    return {**lines, **bars}[label]


def interval_ends(ax: Axes, label: str) -> tuple[list[float], list[float]]:
    """Where the error bars of that label begin and end, along the axis that they lie on."""
    (bars,) = [c for c in ax.containers if c.get_label() == label and isinstance(c, ErrorbarContainer)]
    low, high = bars.lines[1]
    along = low.get_xdata() if bars.has_xerr else low.get_ydata()
    to = high.get_xdata() if bars.has_xerr else high.get_ydata()
    return list(along), list(to)


def y(ax: Axes, label: str) -> list[float]:
    return [float(value) for value in line(ax, label).get_ydata()]


def x(ax: Axes, label: str) -> list[float]:
    return [float(value) for value in line(ax, label).get_xdata()]


def horizontal_lines(ax: Axes) -> list[float]:
    """Where a line crosses the whole axes."""
    across = [one for one in ax.lines if list(one.get_xdata()) == [0, 1] and len(set(one.get_ydata())) == 1]
    return [float(one.get_ydata()[0]) for one in across]


def vertical_lines(ax: Axes) -> list[float]:
    across = [one for one in ax.lines if list(one.get_ydata()) == [0, 1] and len(set(one.get_xdata())) == 1]
    return [float(one.get_xdata()[0]) for one in across]


def words(figure: Figure) -> str:
    """All text of the figure."""
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def colour(ax: Axes, label: str) -> str:
    """Of the line, the points or the bar of that label."""
    for bars in ax.containers:
        if isinstance(bars, BarContainer) and bars.get_label() == label:
            return to_hex(bars.patches[0].get_facecolor())
    return to_hex(line(ax, label).get_color())
