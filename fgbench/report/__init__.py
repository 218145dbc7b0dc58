"""The report of a run: tables, and in plain sentences what was found and how sure it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

from fgbench.report.budget import budget_findings, budget_table
from fgbench.report.doubts import doubts
from fgbench.report.sparkline import sparklines
from fgbench.report.table import FEW_TARGETS, caption, group_tables, legend, parts_table, targets_table, title
from fgbench.report.words import findings, verdicts, where
from fgbench.store.jobs import curves_to_the_end, within_budget
from fgbench.store.run_folder import RunFolder
from fgbench.summary.parts import split
from fgbench.summary.table import aa_rows, summarise
from fgbench.summary.targets import TARGET, by_target
from fgbench.summary.variants import variants_of

NOTES = 3  # so many warnings are shown; --verbose shows all
MORE = "fgbench run --verbose prints all of them, and the parts of a step"


@dataclass(frozen=True)
class _Result:
    """What is shown of a run: the rows of the summary and of other tables, and warnings."""

    summary: pd.DataFrame
    aa: pd.DataFrame
    parts: pd.DataFrame
    targets: pd.DataFrame
    curves: pd.DataFrame
    variants: pd.DataFrame
    budget: int | None
    warnings: list[str]

    def groups(self) -> Iterator[pd.DataFrame]:
        """The rows of each matched group."""
        for _, group in self.summary.groupby("group", sort=False):
            yield group

    def within_budget(self, group: pd.DataFrame) -> list[str]:
        """A sentence on who wins under the memory budget, if there is one."""
        own = self.variants[self.variants["group"] == group["group"].iloc[0]]
        return list(budget_findings(group, own, self.budget)) if self.budget else []


def show(folder: RunFolder, *, as_json: bool = False, detail: bool = False) -> bool:
    """Print a run's result on standard output: verdicts and tables for each group, or one JSON object.

    Gives whether there was any figure to show.

    Args:
        folder: the run's.
        as_json: print that object, and nothing else.
        detail: print all columns, the parts of a step and every doubt.
    """
    summary = summarise(folder)
    warnings = doubts(summary, folder.read("ratios"), folder.read("samples"), folder.seeds_before)
    curves = curves_to_the_end(within_budget(folder.read("curves")), folder.read("jobs"))
    found = aa_rows(folder), split(folder), by_target(folder), curves, variants_of(folder)
    result = _Result(summary, *found, folder.facts()["config"].get("memory_budget"), warnings)
    if as_json:
        _print_json(folder, result)
    else:
        _print(folder, result, detail)
    return _has_figures(summary)


def _print_json(folder: RunFolder, result: _Result) -> None:
    def rows(frame: pd.DataFrame) -> Any:
        return json.loads(frame.to_json(orient="records", double_precision=15))

    shown = {
        "path": str(folder.path),
        "results": rows(result.summary),
        "parts": rows(result.parts),
        "targets": rows(result.targets),
        "variants": rows(result.variants),
        "findings": [
            sentence
            for group in result.groups()
            for sentence in (*findings(group, result.aa, result.targets), *result.within_budget(group))
        ],
        "warnings": result.warnings,
    }
    json.dump(shown, sys.stdout, indent=2)
    sys.stdout.write("\n")


def _print(folder: RunFolder, result: _Result, detail: bool) -> None:
    console = Console(highlight=False)
    for group in result.groups():
        _print_group(console, result, group, detail)
    for warning in result.warnings[: None if detail else NOTES]:
        console.print(f"[yellow]note[/yellow] {escape(warning)}")
    if not detail and len(result.warnings) > NOTES:
        console.print(f"[yellow]note[/yellow] {_rest(len(result.warnings) - NOTES)}: {MORE}.")
    console.print(f"[dim]results in[/dim] {folder.path}", soft_wrap=True)


def _rest(count: int) -> str:
    return "There is one more" if count == 1 else f"There are {count} more"


def _print_group(console: Console, result: _Result, group: pd.DataFrame, detail: bool) -> None:
    """Print a group's verdicts, and then the tables that they are based on."""
    if said := [*verdicts(group, result.aa, result.targets), *result.within_budget(group)]:
        console.print(f"[bold]{escape(where(group))}:[/bold]")
    for sentence in said:
        console.print(Padding(f"[bold]{escape(sentence)}[/bold]", (0, 0, 0, 2)))
    console.print(f"\n{escape(title(group.iloc[0]))}")
    name = group["group"].iloc[0]
    curves = {} if console.options.ascii_only else sparklines(result.curves[result.curves["group"] == name])
    targets = result.targets[result.targets["group"] == name]
    tables = group_tables(group, console, curves, detail=detail)
    tables += targets_table(targets, group, console, detail=detail)
    if result.budget:
        tables += budget_table(result.variants[result.variants["group"] == name], result.budget)
    for table in [*tables, *(parts_table(result.parts, group) if detail else ())]:
        console.print(table)
    below = caption(group.iloc[0]) if detail else legend(group.iloc[0], targets) + _left_out(targets)
    console.print(f"[dim]{escape(below)}[/dim]\n")


def _left_out(targets: pd.DataFrame) -> str:
    """A line on the targets that tables without details leave out, if there are any."""
    count = len(targets[TARGET].drop_duplicates())
    if count <= FEW_TARGETS:
        return ""
    return f"\nT is that of the main target: {count - 1} more are in targets.csv, and --verbose prints them"


def _has_figures(summary: pd.DataFrame) -> bool:
    return bool(summary[["r", "runs"]].notna().any(axis=None))
