"""Report a reproduction: a row for each claim, with what is expected beside what was measured here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fgbench.charts.drawing.parts import ROW_INCHES, beside, log_axis, name_rows, reference_line
from fgbench.charts.drawing.style import BLUE, COLOURS, GREY, new_figure, print_style, save
from fgbench.measurement.statistics import Estimate
from fgbench.page.claims import counted
from fgbench.report.figures import interval, json_ready, number
from fgbench.reproduction.claims import JudgedClaim, Verdict
from fgbench.reproduction.suite import MARKS, Experiment, Suite
from fgbench.store.csv_table import replace_text

SHADES = {Verdict.REPRODUCED: "green", Verdict.NOT_REPRODUCED: "red", Verdict.NOT_COMPARABLE: "yellow"}
PLAIN = (0.01, 1000)  # numbers between these are written without an exponent
WIDE = 3  # an axis is logarithmic if the largest figure is more than so many times the smallest
LONGEST_NAME = 44  # characters in a line of a claim's text
MOST_TICKS = 6  # between long texts at both sides the axis may be an inch wide
SHADES_OF_DOTS = {
    Verdict.REPRODUCED: BLUE,
    Verdict.NOT_REPRODUCED: COLOURS[0],
    Verdict.NOT_COMPARABLE: GREY,
}
DOTS = "Dots: what was measured here over the value that was claimed, with 95 % intervals."
LONGER = " Triangles: it is more than that."
BY_SEED = "Difference by seed: the first figure less the second, of runs with the same seed."
HEADINGS = ("claim", "expected", "measured here", "verdict")
Found = Mapping[str, Sequence[JudgedClaim]]
"""Judged claims by the experiment's name."""


def rows_of(judged: Sequence[JudgedClaim]) -> list[tuple[str, str, str, str]]:
    """The cells of each row: claim, the expected value with its place and mark, measured value, verdict."""
    rows = []
    for outcome in judged:
        claim = outcome.claim
        value = "" if claim.value is None else f"{claim.value:g} "
        mark = f" [{claim.mark}]" if claim.mark else ""
        verdict = outcome.verdict.value + (f": {outcome.why}" if outcome.why else "")
        rows.append((claim.text, f"{value}({claim.where}){mark}", _found_text(outcome), verdict))
    return rows


def _found_text(outcome: JudgedClaim) -> str:
    """What was measured; for a claim that compares two figures both, and their difference by seed."""
    text = measured_text(outcome.measured)
    if outcome.claim.than:
        text += f" against {measured_text(outcome.against)}"
    if not math.isnan(outcome.difference.value):
        ends = astuple(outcome.difference)
        text += f"; difference by seed {' '.join(filter(None, (number(*ends), interval(*ends))))}"
    return text


def measured_text(measured: Estimate) -> str:
    """A figure with its interval, to five digits where it is tiny or large; – where it was not measured."""
    if math.isnan(measured.value):
        return "–"
    if _is_plain(measured):
        return " ".join(filter(None, (number(*astuple(measured)), interval(*astuple(measured)))))
    ends = f" [{measured.low:.5g}, {measured.high:.5g}]" if measured.has_interval else ""
    return f"{measured.value:.5g}{ends}"


def _is_plain(measured: Estimate) -> bool:
    return PLAIN[0] <= abs(measured.value) < PLAIN[1] or math.isinf(measured.value)


def show(suite: Suite, found: Found, scale: str, console: Console) -> None:
    """Print the table of claims, what its marks mean, and how many claims have each verdict."""
    console.print(f"[bold]{escape(suite.title)}[/bold], {escape(suite.source)} · scale {scale}")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for name, judged in found.items():
        for row, outcome in zip(rows_of(judged), judged, strict=True):
            *cells, verdict = map(escape, row)
            shade = SHADES[outcome.verdict]
            table.add_row(f"{name}: {cells[0]}", *cells[1:], f"[{shade}]{verdict}[/{shade}]")
    console.print(table)
    marks = "; ".join(f"\\[{mark}] {text}" for mark, text in MARKS.items())
    console.print(f"[dim]{marks}. Intervals: 95 %.[/dim]")
    if any(not math.isnan(outcome.difference.value) for judged in found.values() for outcome in judged):
        console.print(f"[dim]{BY_SEED}[/dim]")
    console.print(summary_line(found))


def summary_line(found: Found) -> str:
    """How many claims have each verdict, in words."""
    every = [outcome for judged in found.values() for outcome in judged]
    expected = [row[1] for row in rows_of(every)]
    return counted(zip(expected, (o.verdict.value for o in every), strict=True)) or "no claims"


def markdown(found: Found) -> str:
    """The table of claims as Markdown."""
    lines = [f"| | {' | '.join(HEADINGS)} |", "|---" * (len(HEADINGS) + 1) + "|"]
    for name, judged in found.items():
        lines += [f"| {name} | {' | '.join(row)} |" for row in rows_of(judged)]
    return "\n".join(lines)


def store(folder: Path, suite: Suite, found: Found, facts: Mapping[str, Any]) -> None:
    """Write `claims.md` and `claims.json`: every claim with what was measured, beside the facts."""
    rows = [
        {
            "experiment": name,
            **vars(outcome.claim),
            "measured": list(astuple(outcome.measured)),
            "against": list(astuple(outcome.against)),
            "difference": list(astuple(outcome.difference)),
            "verdict": outcome.verdict.value,
            "reason": outcome.why,
        }
        for name, judged in found.items()
        for outcome in judged
    ]
    whole = {"paper": suite.name, "source": suite.source, **facts, "claims": rows}
    text = json.dumps(json_ready(whole), indent=2)
    replace_text(folder / "claims.json", text + "\n")
    replace_text(folder / "claims.md", markdown(found) + "\n")


def draw_claims(experiment: Experiment, judged: Sequence[JudgedClaim], source: str, out: Path) -> list[Path]:
    """Draw the measured number over the paper's, a row for each claim that has both.

    A claim that nothing measured here can decide has none: the two may be of different kinds. A time that no
    run was long enough for is drawn from its lower end.
    """
    own = [o for o in judged if o.claim.value and o.claim.test != "none"]
    both = [o for o in own if o.measured.value > 0]
    if not both:
        return []
    with print_style():
        path = out / f"claims_{experiment.name}.png"
        save(_figure(experiment, both, source), path)
    return [path]


def _short(measured: Estimate) -> str:
    return number(*astuple(measured)) if _is_plain(measured) else f"{measured.value:.3g}"


def _figure(experiment: Experiment, judged: Sequence[JudgedClaim], source: str) -> Figure:
    lines = [source, DOTS + LONGER * any(math.isinf(o.measured.value) for o in judged)]
    figure = new_figure(experiment.title, lines, 1.1 + ROW_INCHES * len(judged))
    ax = figure.subplots()
    ends = [1.0]
    for place, outcome in enumerate(judged):
        value = outcome.claim.value
        assert value is not None
        over, low, high = (end / value for end in astuple(outcome.measured))
        never = math.isinf(over)
        at, marker = (low, ">") if never else (over, "o")
        reach = [[over - low], [high - over]] if outcome.measured.has_interval and not never else None
        if not math.isnan(at):
            shade = SHADES_OF_DOTS[outcome.verdict]
            ax.errorbar([at], [place], xerr=reach, color=shade, marker=marker, zorder=3)
        ends += [end for end in (over, low, high) if math.isfinite(end)]
        beside(ax, place, f"{_short(outcome.measured)} / {value:.3g}  {outcome.verdict.value}")
    name_rows(ax, [outcome.claim.text for outcome in judged], partial(fill, width=LONGEST_NAME))
    if max(ends) > WIDE * min(ends) > 0:
        log_axis(ax, "x", ends, MOST_TICKS)
    reference_line(ax, 1.0, "as claimed", vertical=True)
    ax.set_xlabel("Measured here / claimed")
    return figure
