"""The style of charts: one look for each method, fonts and lines fit for print, reproducible files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from fgbench.plan.config import REFERENCE

# Okabe and Ito's palette without its yellow, which vanishes on paper, and its black, kept for lines
# that are no method's. Backprop is always the blue.
BLUE, INK, GREY = "#0072B2", "#222222", "#767676"
COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31")
# These lists are not as long as the colours', so that methods that share a colour differ in marker and line.
MARKERS = ("s", "^", "D", "v", "P", "X")
LINES: tuple[tuple[float, tuple[float, ...]], ...] = ((0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))

WIDTH = 7.0  # inches: a page's text
DPI = 200
LINE_INCHES, MARGIN_INCHES = 0.165, 0.12
LETTERS_A_LINE = 100  # of the subtitle, over the width
NO_BREAK, SHORT_ITEM = "\xa0", 20  # letters of an item that stays in one piece
HEADING_SIZE, TEXT_SIZE = 11.0, 8.5

RC = {
    "font.family": ["DejaVu Sans", "sans-serif"],
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": False,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "errorbar.capsize": 2.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "fgbench",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn."""

    colour: str
    marker: str
    line: tuple[float, tuple[float, ...]] | str


def looks_of(methods: Iterable[str], together: Sequence[Iterable[str]] = ()) -> dict[str, Look]:
    """A look for each method: backprop's own, the others' by their place in the sorted list.

    Args:
        methods: all that are drawn.
        together: the methods of each figure; where given, only those that share a figure have to differ, as
            there are fewer colours and lines than methods in many runs.
    """
    others = sorted(set(methods) - {REFERENCE})
    figures = [set(own) for own in together or [others]]
    places: dict[str, int] = {}
    for method in others:
        beside = set[str]().union(*(own for own in figures if method in own))
        taken = {places[other] for other in beside if other in places}
        places[method] = next(place for place in count() if place not in taken)
    looks = {
        method: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i % len(LINES)])
        for method, i in places.items()
    }
    return {REFERENCE: Look(BLUE, "o", "-"), **looks}


def print_style() -> AbstractContextManager[None]:
    """The style that figures are made and saved in."""
    return matplotlib.rc_context(RC)  # type: ignore[arg-type]


def _wrapped(line: str) -> list[str]:
    """A line in pieces that fit; a short item between dots is not broken, as "torch 2.14"."""
    items = [item.replace(" ", NO_BREAK) if len(item) < SHORT_ITEM else item for item in line.split(" · ")]
    return [piece.replace(NO_BREAK, " ") for piece in textwrap.wrap(" · ".join(items), LETTERS_A_LINE)]


def new_figure(title: str, lines: Iterable[str], height: float) -> Figure:
    """A figure of the page's width, with a title and lines of small print above it.

    Args:
        title: what it shows.
        lines: what was compared on what, and how sure the figures are; empty ones are left out.
        height: inches, the heading not counted.
    """
    small = [part for line in lines if line for part in _wrapped(line)]
    heading = MARGIN_INCHES + LINE_INCHES * (len(small) + 1.6)
    total = height + heading
    figure = Figure(figsize=(WIDTH, total), layout="constrained", dpi=DPI)
    left, top = MARGIN_INCHES / WIDTH, 1 - MARGIN_INCHES / total
    figure.text(left, top, title, size=HEADING_SIZE, weight="bold", va="top")
    for number, line in enumerate(small):
        below = (MARGIN_INCHES + LINE_INCHES * (number + 1.35)) / total
        figure.text(left, 1 - below, line, size=TEXT_SIZE, color="#4A4A4A", va="top")
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, 0, 1, 1 - heading / total), w_pad=0.06, h_pad=0.06)  # type: ignore[call-arg]
    return figure


def add_legend(figure: Figure, ax: Axes, first: Sequence[str]) -> None:
    """Add a legend below the axes, where it covers nothing: first the labels in `first`, then the others."""
    handles, labels = ax.get_legend_handles_labels()
    entries = dict(zip(labels, handles, strict=True))
    order = [label for label in first if label in entries]
    order += [label for label in labels if label not in order]
    figure.legend(
        [entries[label] for label in order],
        order,
        loc="outside lower center",
        ncols=_columns(order),
        handlelength=2.8,
    )


def height_over_legend(labels: Sequence[str]) -> float:
    """The height in inches of a figure whose axes are equally high for any number of labels in the legend."""
    return 2.6 + 0.25 * -(-len(labels) // _columns(labels))


def _columns(labels: Sequence[str]) -> int:
    return max(1, min(len(labels), LETTERS_A_LINE // (max(map(len, labels)) + 8)))


def folded(method: str) -> str:
    """A method's name for an axis, its options on lines of their own where it is long."""
    if len(method) <= 18:
        return method
    name, _, options = method.partition(":")
    return "\n".join([name, *options.split(",")]) if options else name


def save(figure: Figure, path: Path) -> None:
    """Write a figure; its format is the file's ending. The same figure gives the same bytes."""
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(path.suffix[1:], {})
    engine = figure.get_layout_engine()
    if engine is not None:  # laid out here, once: matplotlib would draw the whole figure to do so
        engine.execute(figure)
        figure.set_layout_engine(None)
    if path.suffix == ".png":
        _save_png(figure, path)
    else:
        figure.savefig(path, dpi=DPI, metadata=undated)


def _save_png(figure: Figure, path: Path) -> None:
    """Write a PNG of 256 colours, which has a third of the size and is written sooner."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    few = image.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.putpalette([255 if level == 254 else level for level in few.getpalette() or ()])  # white stays white
    few.save(path, dpi=(DPI, DPI))
