"""A check's verdicts as text: for a terminal, a pull request, a CI's parser, a script."""

from __future__ import annotations

import io
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple
from statistics import median
from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fgbench.measurement.statistics import Estimate
from fgbench.regression.checking import Answer, CheckedRatio
from fgbench.regression.difference import MEMORY, Difference
from fgbench.regression.history import Series
from fgbench.regression.self_test import Probe, findings
from fgbench.report.figures import folded, interval, json_ready, number, size

COLOURS = {
    Answer.PASS: "green",
    Answer.IMPROVED: "green",
    Answer.REGRESSED: "bold red",
    Answer.INCONCLUSIVE: "yellow",
    Answer.INVALID: "red",
    Answer.NEW: "dim",
}
# What helps where a self-test finds the check wrong.
MISSED = (
    "to find such a slowdown, store a baseline of more runs (--repeat 5 or more) or of longer ones "
    "(--max-measure-seconds), or give a lower --tolerance"
)
FALSE_ALARM = "runs differ by more than the baseline's do: store one of more runs (--repeat), hours apart"
SOURCES = {"data": "copies", "run": "runs"}
LABEL_WIDTH = 40
HEADINGS = ("", "baseline", "now", "change", "could have caught")


def summary_line(verdicts: Sequence[CheckedRatio]) -> str:
    """How many verdicts there are of each answer."""
    count = Counter(verdict.answer for verdict in verdicts)
    parts = [f"{count[answer]} {answer.value}" for answer in Answer if count[answer]]
    return ", ".join(parts) if parts else "nothing to check"


def as_table(verdicts: Sequence[CheckedRatio]) -> str:
    """The verdicts as a table for a terminal."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("verdict", no_wrap=True)
    for heading in HEADINGS:
        narrow = heading.replace("could have ", "could have\n")
        table.add_column(narrow, overflow="fold", justify="left" if not heading else "right")
    for verdict in verdicts:
        answer = f"[{COLOURS[verdict.answer]}]{verdict.answer.value}[/]"
        label, *figures = _row(verdict)
        cells = (figure.replace(" [", "\n[") for figure in figures)  # narrow, so that labels stay whole
        table.add_row(answer, escape(folded(label, LABEL_WIDTH)), *map(escape, cells))
    reasons = [f"{v.entry.label}: {v.why}" for v in verdicts if v.why]  # whole lines are easier to read
    return _printed(table, "\n".join([*map(escape, reasons), summary_line(verdicts)]))


def self_test_table(probes: Sequence[Probe]) -> str:
    """The self-test as a table for a terminal: the check's answers in cases where the truth is known."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("known", "checks", "said", "by one run", "power", "smallest", ""):
        table.add_column(heading, justify="left" if heading in ("known", "said", "") else "right")
    found = findings(probes)
    for finding in found:
        own = [t for t in probes if (t.source, t.slowed) == (finding.source, finding.slowed)]
        what = f"{finding.slowed:.0%} slower" if finding.slowed else "unchanged"
        said = ", ".join(f"{count} {answer}" for answer, count in finding.answers.items())
        works = "[green]right[/]" if finding.works else "[bold red]WRONG[/]"
        table.add_row(
            f"{SOURCES[finding.source]}, {what}",
            str(finding.checks),
            said,
            f"{finding.regressed_first} {Answer.REGRESSED.value}",
            f"{_middle(t.power for t in own):.0%}" if finding.slowed else "–",
            _share(_middle(t.smallest for t in own)),
            works,
        )
    wrong = [finding for finding in found if not finding.works]
    if not wrong:
        return _printed(table, "the check can fail, and fails where it should")
    helps = dict.fromkeys(MISSED if finding.slowed else FALSE_ALARM for finding in wrong)
    return _printed(table, "\n".join([f"{len(wrong)} of {len(found)} are not as they should be", *helps]))


def _middle(values: Iterable[float]) -> float:
    """The median of the values without NaN, which an invalid check has."""
    return median([value for value in values if not math.isnan(value)] or [math.nan])


def _printed(table: Table, line: str = "") -> str:
    coloured = sys.stdout.isatty()
    console = Console(file=io.StringIO(), record=True, highlight=False, force_terminal=coloured)
    console.print(table)
    if line:
        console.print(line)
    return console.export_text(styles=coloured)


def as_markdown(verdicts: Sequence[CheckedRatio]) -> str:
    """The verdicts as Markdown, for a pull request's comment or a job's summary."""
    rows = [(f"**{verdict.answer.value}**", *_row(verdict), verdict.why) for verdict in verdicts]
    table = _rows_as("markdown", ("verdict", *HEADINGS, ""), rows, ())
    return "\n".join(["### fgbench check", "", summary_line(verdicts), "", table])


def as_github(verdicts: Sequence[CheckedRatio]) -> str:
    """GitHub's annotations: an error for regressed and invalid, a warning for inconclusive."""
    kinds = {Answer.REGRESSED: "error", Answer.INVALID: "error", Answer.INCONCLUSIVE: "warning"}
    lines = [
        f"::{kinds[v.answer]} title=fgbench {v.answer.value}::{v.entry.label}: {_sentence(v)}"
        for v in verdicts
        if v.answer in kinds
    ]
    return "\n".join([*lines, f"::notice title=fgbench::{summary_line(verdicts)}"])


def as_junit(verdicts: Sequence[CheckedRatio]) -> str:
    """JUnit's XML: regressed is a failure, invalid an error, inconclusive and new are skipped."""
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
        own = verdict.entry
        case = ElementTree.SubElement(suite, "testcase", classname=own.where, name=own.label)
        if kind := kinds.get(verdict.answer):
            ElementTree.SubElement(case, kind, message=f"{verdict.answer.value}: {_sentence(verdict)}")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)


def as_json(verdicts: Sequence[CheckedRatio]) -> str:
    """The verdicts as JSON for a script; a missing figure is null."""
    rows = [{**asdict(verdict), "answer": verdict.answer.value} for verdict in verdicts]
    return json.dumps({"summary": summary_line(verdicts), "verdicts": json_ready(rows)}, indent=2)


DIFFERENCE_HEADINGS = ("", "A", "B", "change", "")


def differences_as(format: str, differences: Sequence[Difference]) -> str:
    """What changed between two results, as `table`, `markdown` or `json`."""
    rows = [
        (
            "\n".join(filter(None, (difference.label, difference.figure, _note(difference)))),
            *(_figure(difference.figure, value) for value in (difference.a, difference.b)),
            _percent(difference.change),
            difference.words,
        )
        for difference in differences
        if not math.isnan(difference.change.value)
    ]
    left = [d for d in differences if math.isnan(d.change.value)]
    lines = [f"left out: {d.label}, {d.figure}: {d.why}" for d in left]
    data = [{**asdict(difference), "words": difference.words} for difference in differences]
    return _rows_as(format, DIFFERENCE_HEADINGS, rows, data, lines)


HISTORY_HEADINGS = ("", "runs", "from", "to", "ratio", "change", "since")


def histories_as(format: str, histories: Sequence[Series]) -> str:
    """A row for each stretch between change points, as `table`, `markdown` or `json`."""
    rows, data = [], []
    for series in histories:
        changes = [None, *series.changes]
        for stretch, change in zip(series.stretches, changes, strict=True):
            first, last = series.points[stretch[0]], series.points[stretch[1] - 1]
            level = series.level(stretch)
            moved = _percent(change.change) if change else ""
            dates = [point.started[:16].replace("T", " ") for point in (first, last)]
            runs = stretch[1] - stretch[0]
            figure = _figure("", level)
            rows.append((series.label, str(runs), *dates, figure, moved, first.commit if change else ""))
            step = asdict(change.change) if change else None
            own = {"label": series.label, "runs": runs, "first": asdict(first), "last": asdict(last)}
            data.append({**own, "ratio": asdict(level), "change": step})
    return _rows_as(format, HISTORY_HEADINGS, rows, data)


def _rows_as(
    format: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    data: Sequence[object],
    lines: Sequence[str] = (),
) -> str:
    if format == "json":
        return json.dumps(json_ready(list(data)), indent=2)
    if format == "markdown":
        whole = [_line(headings), "|---" * len(headings) + "|", *map(_line, rows)]
        return "\n".join([*whole, "", *lines] if lines else whole)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for label, *cells in rows:
        table.add_row(
            escape(folded(label, LABEL_WIDTH)), *(escape(cell.replace(" [", "\n[")) for cell in cells)
        )
    return _printed(table, "\n".join(map(escape, lines)))


def _line(cells: Sequence[str]) -> str:
    plain = (cell.replace("|", "\\|").replace("\n", "<br>") for cell in cells)
    return f"| {' | '.join(plain)} |"


def _figure(name: str, value: Estimate) -> str:
    if name == MEMORY:
        return size(value.value)
    return " ".join(filter(None, (number(*astuple(value)), interval(*astuple(value)))))


def _percent(change: Estimate) -> str:
    if math.isnan(change.value):
        return "–"
    value, low, high = (_signed(x - 1) for x in astuple(change))
    return f"{value} [{low}, {high}]" if change.has_interval else value


def _signed(share: float) -> str:
    """Per cent with a sign, but for what rounds to nothing: "-0.0%" is no change."""
    text = f"{share:+.1%}"
    return "0.0%" if text in ("+0.0%", "-0.0%") else text


def _note(difference: Difference) -> str:
    unseen = difference.words == "no difference seen" and not math.isnan(difference.smallest)
    seen = f"{difference.smallest:.1%} would have been seen" if unseen else ""
    return "; ".join(filter(None, (seen, difference.why)))


FORMATS: dict[str, Callable[[Sequence[CheckedRatio]], str]] = {
    "table": as_table,
    "markdown": as_markdown,
    "junit": as_junit,
    "github": as_github,
    "json": as_json,
}


def _row(verdict: CheckedRatio) -> list[str]:
    then = verdict.entry if verdict.answer is not Answer.NEW else None
    figures = [number(c.ratio, c.low, c.high) if c else "–" for c in (then, verdict.now)]
    return [
        verdict.entry.label,
        *figures,
        _percent(Estimate(verdict.change, verdict.low, verdict.high)),
        _share(verdict.smallest),
    ]


def _share(smallest: float) -> str:
    return "–" if math.isnan(smallest) else _signed(smallest)


def _sentence(verdict: CheckedRatio) -> str:
    if math.isnan(verdict.change):
        return verdict.why
    change = _percent(Estimate(verdict.change, verdict.low, verdict.high))
    text = f"ratio {change} of the baseline's, margin {verdict.margin:.1%}"
    return f"{text}; {verdict.why}" if verdict.why else text
