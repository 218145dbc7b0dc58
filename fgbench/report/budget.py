"""A memory budget in words and in a table: the variant of each method that fits, and which method wins."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fgbench.report.figures import NOTHING, folded, folded_width, missing, number, size, target_words


def budget_table(variants: pd.DataFrame, budget: int) -> list[Table]:
    """A table of the variants that stand for the methods of a group; empty without variants.

    For a method without a variant that fits it says by how much the smallest is over the budget.

    Args:
        variants: the group's measured rows of variants.csv.
        budget: the budget in bytes.
    """
    if variants.empty:
        return []
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"within {size(budget)}", style="bold", min_width=folded_width(variants["method"]))
    for name in ("as", "peak", "R", "fit"):
        table.add_column(name, justify="left" if name == "as" else "right", overflow="fold")
    for method, own in variants.groupby("method", sort=False):
        taken = own[_chosen(own)]
        row = (own.sort_values("peak_bytes") if taken.empty else taken).iloc[0]
        over = f"\n{size(row['peak_bytes'] - budget)} over" if taken.empty else ""
        options = str(row["variant"]).partition(":")[2].replace(",", ",\n") or "it is"
        share = f"{int(own['fits'].sum())} of {len(own)}"
        table.add_row(folded(str(method)), options, size(row["peak_bytes"]) + over, number(row["r"]), share)
    return [table]


def budget_findings(group: pd.DataFrame, variants: pd.DataFrame, budget: int) -> Iterator[str]:
    """A sentence that says which method wins under a budget: by a step, and by the time to the target.

    Args:
        group: the group's rows of the summary.
        variants: the group's measured rows of variants.csv.
        budget: the budget in bytes.
    """
    if variants.empty:
        return
    chosen = variants[_chosen(variants)].set_index("method")
    lost = [str(m) for m in variants["method"].unique() if m not in chosen.index]
    parts = []
    timed = group[group["method"].isin(chosen.index) & group["r"].notna()]
    if not timed.empty:
        best = timed.sort_values("r").iloc[0]
        parts.append(f"the shortest step is {_as(best, chosen)}, R {number(best['r'])}")
    reached = group[group["t"].notna() & (group["reached"].fillna(0) > 0)]
    if not reached.empty:
        best = reached.sort_values("t").iloc[0]
        parts.append(f"the first at {target_words(best)} is {_as(best, chosen)}, after {number(best['t'])} s")
    if lost:
        parts.append(f"no way to run {', '.join(lost)} fits")
    yield f"Within {size(budget)}: {'; '.join(parts) or NOTHING}."


def _chosen(variants: pd.DataFrame) -> pd.Series:
    """Which variants were chosen; none where the phase was interrupted."""
    return variants["chosen"].fillna(value=False).astype(bool)


def _as(row: pd.Series, chosen: pd.DataFrame) -> str:
    method = str(row["method"])
    variant = chosen["variant"].get(method)
    return method if missing(variant) or variant == method else f"{method} (as {variant})"
