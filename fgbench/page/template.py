"""Render the page's HTML from what was collected."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fgbench.charts.drawing.comparison import Comparison
from fgbench.page.collecting import (
    Found,
    doubts_of,
    environment,
    extremes,
    files_of,
    samples_of,
)
from fgbench.page.drawing import Charts, with_shared_styles
from fgbench.report.figures import (
    bound_words,
    device_words,
    interval,
    missing,
    number,
    seconds,
    size,
    target_words,
)
from fgbench.version import __version__

HERE = Path(__file__).parent
BARS = ("r", "ratio", "t", "t_ratio")
FILTERS = {"arch": "architecture", "depth": "depth", "method": "method", "device": "device"}


@dataclass(frozen=True)
class Bar:
    """The places of a figure, of its interval's ends and of 1 on a logarithmic axis from 0 to 100."""

    at: float
    low: float
    high: float
    one: float | None


@dataclass(frozen=True)
class Cell:
    """A figure in the table: its text, the key that it is sorted by (empty without a figure), and its bar."""

    text: str
    small: str = ""
    sort: str = ""
    bar: Bar | None = None


def render(found: Found, charts: Charts) -> str:
    """The whole page."""
    jinja = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    jinja.filters |= {"size": size, "seconds": seconds, "breakable": breakable}
    charts, of_charts = with_shared_styles(charts)
    rows = pd.concat([c.rows for c in found.comparisons], ignore_index=True) if found.comparisons else None
    ends = {} if rows is None else {name: extremes(rows, name) for name in BARS}
    setups = [_setup(found, c, number, charts, ends) for number, c in enumerate(found.comparisons)]
    every = [row for setup in setups for row in setup["rows"]]
    return jinja.get_template("page.html").render(
        name=found.source.resolve().name,
        version=__version__,
        setups=setups,
        bound=bound_words("the reference"),
        filters={
            name: (words, sorted({row[name] for row in every}, key=_natural))
            for name, words in FILTERS.items()
        },
        papers=[(found.name_of(paper.folder), paper) for paper in found.papers],
        files=files_of(found),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8") + of_charts),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
    )


def breakable(method: str) -> Markup:
    """A method's name, which is broken after a colon or a comma alone."""
    parts = (Markup("<span>{}</span>").format(part) for part in re.split(r"(?<=[,:])", method))
    return Markup("<wbr>").join(parts)


def _setup(
    found: Found, comparison: Comparison, place: int, charts: Charts, ends: dict[str, Any]
) -> dict[str, Any]:
    slugs = dict.fromkeys([comparison.slug, *(part.slug for part in comparison.by_depth)])
    return {
        "id": f"setup-{place}",
        "title": comparison.sentence,
        "sentences": found.sentences(comparison),
        "rows": [_row(row, ends) for _, row in comparison.rows.iterrows()],
        "charts": [(name, Markup(svg)) for slug in slugs for name, svg in charts.get(slug, ())],
        "samples": samples_of(found, comparison),
        "runs": [
            {
                "name": found.name_of(run.path),
                "command": run.facts().get("command", ""),
                "started": run.facts().get("started", ""),
                "doubts": doubts_of(run),
                "environment": environment(run),
            }
            for run in found.runs_of(comparison)
        ],
    }


def _row(row: pd.Series, ends: dict[str, Any]) -> dict[str, Any]:
    return {
        "arch": str(row["arch"]),
        "depth": str(row["depth"]),
        "method": str(row["method"]),
        "device": device_words(row),
        "model": f"width {row['width']}, batch {row['batch']}, {row['dataset']}",
        "figures": [
            ("R", _figure(row, "r", ends)),
            ("ratio", _figure(row, "ratio", ends)),
            ("T", _time(row, ends)),
            ("T ratio", _figure(row, "t_ratio", ends)),
            ("peak memory", _memory(row)),
            ("of floor", _plain(row["floor_share"], "{:.0%}".format)),
            ("cosine", _plain(row["cosine"])),
            ("variance ×", _plain(row["second_moment"])),
        ],
    }


def _figure(row: pd.Series, name: str, ends: dict[str, Any]) -> Cell:
    value, low, high = (row[name], row[f"{name}_low"], row[f"{name}_high"])
    if missing(value):
        return Cell(number(value))
    sort = repr(float(value)) if math.isfinite(value) else "1e999"
    return Cell(
        number(value, low, high), interval(value, low, high), sort, _bar(value, low, high, *ends[name])
    )


def _time(row: pd.Series, ends: dict[str, Any]) -> Cell:
    if missing(row["runs"]):
        return Cell(number(None))
    reached = f"{int(row['reached'])} of {int(row['runs'])} reached {target_words(row)}"
    if not row["reached"] and missing(row["t_low"]):
        return Cell("never", reached, "1e999")
    cell = _figure(row, "t", ends)
    bar = cell.bar and replace(cell.bar, one=None)  # 1 second means nothing, unlike a ratio of 1
    return Cell(f"{cell.text} s", "; ".join(filter(None, (cell.small, reached))), cell.sort, bar)


def _memory(row: pd.Series) -> Cell:
    value = row["peak_bytes"]
    return Cell(size(value), sort="" if missing(value) else repr(float(value)))


def _plain(value: Any, text: Callable[[Any], str] = number) -> Cell:
    """A figure without an interval."""
    return Cell(number(None)) if missing(value) else Cell(text(value), sort=repr(float(value)))


def _bar(value: float, low: Any, high: Any, least: float, most: float) -> Bar | None:
    if not (0 < value < math.inf) or not most > least:
        return None
    ends = [value if missing(end) or not 0 < end < math.inf else end for end in (low, high)]
    places = [2 + 96 * math.log(x / least) / math.log(most / least) for x in (value, *ends, 1.0)]
    at, start, end, one = (round(place, 1) for place in places)
    return Bar(at, start, end, one if least <= 1 <= most else None)


def _natural(text: str) -> tuple[int, float, str]:
    """A sort key: numbers come before words, and are sorted by size."""
    return (0, float(text), "") if text.isdigit() else (1, 0.0, text)
