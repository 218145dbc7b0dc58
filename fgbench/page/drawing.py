"""The charts of `fgbench plot` as SVG inside a page, in the page's colours."""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from fgbench.charts import draw_comparisons
from fgbench.charts.drawing.comparison import Comparison

# Colours that would vanish on a dark (or light) background, with the page's variables that replace them.
SCHEME = {
    "#ffffff": "paper",
    "#222222": "ink",
    "#4a4a4a": "small",
    "#767676": "grey",
    "#e4e4e4": "line",
    "#0072b2": "blue",
    "#7a5195": "purple",
    "#000000": "ink",
}
Charts = Mapping[str, Sequence[tuple[str, str]]]
"""Name and SVG of each chart, by the slug of its comparison."""


def draw(found: Sequence[Comparison], processes: int = 1) -> Charts:
    """Every chart of these comparisons, and of each of their groups."""
    charts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    if not found:
        return charts
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_comparisons(found, Path(folder), "svg", processes=processes)
        for number, (name, path) in enumerate((d.chart, d.path) for d in drawn if d.path):
            slug = path.stem.removeprefix(f"{name}_")
            charts[slug].append(
                (name.replace("_", " "), inline(path.read_text(encoding="utf-8"), f"c{number}-"))
            )
    return charts


def inline(svg: str, prefix: str) -> str:
    """An SVG file's text, changed so that it can be in one page with others.

    Args:
        svg: the text that matplotlib writes.
        prefix: is put before every name in it, as names have to be unique in a page.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = _slim(re.sub(r'<g id="[^"]*"', "<g", svg))  # nothing refers to a group
    names = {name: f"{prefix}{i}" for i, name in enumerate(re.findall(r'<\w+ id="([^"]*)"', svg))}
    svg = re.sub(r'(<\w+ id="|href="#|url\(#)([^")]*)', lambda found: found[1] + names[found[2]], svg)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r'\1 aria-hidden="true"', svg, count=1)
    return re.sub(r"((?:fill|stroke): )(#[0-9a-f]{6})", _shade, svg)


def with_shared_styles(charts: Charts) -> tuple[Charts, str]:
    """The same charts with a class in the place of each style, and the classes' rules for the page."""
    classes: dict[str, str] = {}

    def shared(found: re.Match[str]) -> str:
        return f' class="{classes.setdefault(found[1], f"s{len(classes)}")}"'

    slim = {
        slug: [(name, re.sub(r' style="([^"]*)"', shared, svg)) for name, svg in own]
        for slug, own in charts.items()
    }
    return slim, "\n".join(f".{name} {{ {style} }}" for style, name in classes.items())


def _slim(svg: str) -> str:
    """Make an SVG smaller without a visible change, so that the page opens sooner.

    Empty groups, rotations by 0, the font (which is the page's), white space, digits far below a pixel, and
    points of a line that are then the same are removed.
    """
    svg = re.sub(r"font-family: [^;\"]*;? ?| transform=\"rotate\(-?0 [^\"]*\"", "", svg)
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: _rounded(found[0]), svg)
    kept, open_groups = [], []
    svg = re.sub(r"<g */>|<defs></defs>", "", re.sub(r">\s+<", "><", svg))
    for piece in re.split(r"(<g(?: [^>]*)?>|</g>)", svg):
        if piece.startswith("<g") and not piece.endswith("/>"):
            open_groups.append(piece)
        if piece != "<g>" and not (piece == "</g>" and open_groups.pop() == "<g>"):
            kept.append(piece)
    return "".join(kept)


def _rounded(numbers: str) -> str:
    short = re.sub(r"-?\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), numbers)
    if not short.startswith(" d="):
        return short
    path = re.sub(r"\s*([MLCQz\"])\s*", r"\1", re.sub(r"\s+", " ", short[1:]))
    return " " + re.sub(r"(L[^A-Za-z\"]*)\1+", r"\1", path)  # points that fall on each other


def _shade(found: re.Match[str]) -> str:
    name = SCHEME.get(found[2])
    return f"{found[1]}var(--{name})" if name else found[0]
