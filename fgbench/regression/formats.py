"""A check's verdicts as text: for a terminal, a pull request, a CI's parser, a script."""

from __future__ import annotations

import io
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fgbench.regression.verdict import Answer, Verdict
from fgbench.report.figures import number

COLOURS = {
    Answer.PASS: "green",
    Answer.IMPROVED: "green",
    Answer.REGRESSED: "bold red",
    Answer.INCONCLUSIVE: "yellow",
    Answer.INVALID: "red",
    Answer.NEW: "dim",
}
HEADINGS = ("", "baseline", "now", "change", "could have caught")


def summary_line(verdicts: Sequence[Verdict]) -> str:
    """How many of each."""
    count = Counter(verdict.answer for verdict in verdicts)
    parts = [f"{count[answer]} {answer.value}" for answer in Answer if count[answer]]
    return ", ".join(parts) if parts else "nothing to check"


def as_table(verdicts: Sequence[Verdict]) -> str:
    """For a terminal."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("verdict", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold", justify="left" if not heading else "right")
    for verdict in verdicts:
        answer = f"[{COLOURS[verdict.answer]}]{verdict.answer.value}[/]"
        label, *figures = _row(verdict)
        text = f"{label}\n{verdict.why}" if verdict.why else label
        table.add_row(answer, escape(text), *map(escape, figures))
    coloured = sys.stdout.isatty()
    console = Console(file=io.StringIO(), record=True, highlight=False, force_terminal=coloured)
    console.print(table)
    console.print(summary_line(verdicts))
    return console.export_text(styles=coloured)


def as_markdown(verdicts: Sequence[Verdict]) -> str:
    """For a pull request's comment or a job's summary."""
    lines = ["| verdict | | baseline | now | change | could have caught | |", "|---|---|---|---|---|---|---|"]
    for verdict in verdicts:
        cells = [f"**{verdict.answer.value}**", *_row(verdict), verdict.why]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(["### fgbench check", "", summary_line(verdicts), "", *lines])


def as_github(verdicts: Sequence[Verdict]) -> str:
    """Annotations: an error for what regressed or is invalid, a warning for what is not clear."""
    kinds = {Answer.REGRESSED: "error", Answer.INVALID: "error", Answer.INCONCLUSIVE: "warning"}
    lines = [
        f"::{kinds[v.answer]} title=fgbench {v.answer.value}::{v.cell.label}: {_sentence(v)}"
        for v in verdicts
        if v.answer in kinds
    ]
    return "\n".join([*lines, f"::notice title=fgbench::{summary_line(verdicts)}"])


def as_junit(verdicts: Sequence[Verdict]) -> str:
    """JUnit's XML: regressed is a failure, invalid an error, not clear and new are skipped."""
    kinds = {Answer.REGRESSED: "failure", Answer.INVALID: "error"}
    kinds |= {Answer.INCONCLUSIVE: "skipped", Answer.NEW: "skipped"}
    count = Counter(kinds.get(verdict.answer) for verdict in verdicts)
    suite = ElementTree.Element(
        "testsuite",
        name="fgbench check",
        tests=str(len(verdicts)),
        failures=str(count["failure"]),
        errors=str(count["error"]),
        skipped=str(count["skipped"]),
    )
    for verdict in verdicts:
        case = ElementTree.SubElement(
            suite, "testcase", classname=verdict.cell.device, name=verdict.cell.label
        )
        if kind := kinds.get(verdict.answer):
            ElementTree.SubElement(case, kind, message=f"{verdict.answer.value}: {_sentence(verdict)}")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def as_json(verdicts: Sequence[Verdict]) -> str:
    """For a script; what there is no figure for is null."""
    rows = [{**asdict(verdict), "answer": verdict.answer.value} for verdict in verdicts]
    return json.dumps({"summary": summary_line(verdicts), "verdicts": _plain(rows)}, indent=2)


FORMATS: dict[str, Callable[[Sequence[Verdict]], str]] = {
    "table": as_table,
    "markdown": as_markdown,
    "junit": as_junit,
    "github": as_github,
    "json": as_json,
}


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_plain(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _row(verdict: Verdict) -> list[str]:
    then = verdict.cell if verdict.answer is not Answer.NEW else None
    figures = [number(c.ratio, c.low, c.high) if c else "–" for c in (then, verdict.now)]
    smallest = "–" if math.isnan(verdict.smallest) else f"{verdict.smallest:+.1%}"
    return [verdict.cell.label, *figures, _change(verdict), smallest]


def _change(verdict: Verdict) -> str:
    if math.isnan(verdict.change):
        return "–"
    change, low, high = (f"{x - 1:+.1%}" for x in (verdict.change, verdict.low, verdict.high))
    return f"{change} [{low}, {high}]"


def _sentence(verdict: Verdict) -> str:
    if math.isnan(verdict.change):
        return verdict.why
    text = f"ratio {_change(verdict)} of the baseline's, margin {verdict.margin:.1%}"
    return f"{text}; {verdict.why}" if verdict.why else text
