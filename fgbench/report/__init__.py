"""The report: one table, and in plain words what was found and with what confidence."""

from __future__ import annotations

import json
import sys

import pandas as pd
from rich.console import Console
from rich.markup import escape

from fgbench.report.budget import budget_findings, budget_table
from fgbench.report.doubts import doubts
from fgbench.report.table import caption, group_tables, parts_table, targets_table, title
from fgbench.report.words import findings
from fgbench.store.run_folder import RunFolder
from fgbench.summary.parts import split
from fgbench.summary.table import aa_rows, summarise
from fgbench.summary.targets import by_target
from fgbench.summary.variants import variants_of


def show(folder: RunFolder, *, as_json: bool = False) -> bool:
    """Print a run's result on standard output: a table a group and sentences, or one JSON object.

    Gives whether there was any figure to show.
    """
    summary = summarise(folder)
    aa, parts, targets = aa_rows(folder), split(folder), by_target(folder)
    sentences = [line for _, group in summary.groupby("group", sort=False) for line in findings(group, aa)]
    budget = folder.facts()["config"].get("memory_budget")
    variants = variants_of(folder)
    for name, group in summary.groupby("group", sort=False) if budget else ():
        sentences += budget_findings(group, variants[variants["group"] == name], budget)
    warnings = doubts(summary, folder.read("ratios"), folder.read("samples"))
    if as_json:
        rows = json.loads(summary.to_json(orient="records", double_precision=15))
        result = {
            "path": str(folder.path),
            "results": rows,
            "parts": json.loads(parts.to_json(orient="records", double_precision=15)),
            "targets": json.loads(targets.to_json(orient="records", double_precision=15)),
            "variants": json.loads(variants.to_json(orient="records", double_precision=15)),
            "findings": sentences,
            "warnings": warnings,
        }
        json.dump(result, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return _has_figures(summary)
    console = Console(highlight=False)
    for _, group in summary.groupby("group", sort=False):
        console.print(f"[bold]{title(group.iloc[0])}[/bold]")
        own = targets[targets["group"] == group["group"].iloc[0]]
        found = variants[variants["group"] == group["group"].iloc[0]]
        for table in [
            *group_tables(group, console),
            *targets_table(own),
            *(budget_table(found, budget) if budget else []),
            *parts_table(parts, group),
        ]:
            console.print(table)
        console.print(f"[dim]{caption(group.iloc[0])}[/dim]\n")
    for sentence in sentences:
        console.print(sentence)
    for warning in warnings:
        console.print(f"[yellow]warning[/yellow] {escape(warning)}")
    console.print(f"[dim]results in[/dim] {folder.path}", soft_wrap=True)
    return _has_figures(summary)


def _has_figures(summary: pd.DataFrame) -> bool:
    return bool(summary[["r", "runs"]].notna().any(axis=None))
