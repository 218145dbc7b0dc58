"""Variants of methods under a memory budget: which fit, which is chosen, and which methods do not fit."""

from __future__ import annotations

import pandas as pd

from fgbench.store.run_folder import RunFolder

COLUMNS = ["group", "method", "variant", "peak_bytes", "beyond_bytes", "seconds", "r", "fits", "chosen"]


def marked(variants: pd.DataFrame, budget: int) -> pd.DataFrame:
    """The rows with `fits` set, and with `chosen` set for the fastest variant of each method that fits.

    Args:
        variants: rows of variants.csv, of one matched group.
        budget: bytes that a step may need at its peak.
    """
    fits = variants["peak_bytes"].le(budget).fillna(value=False).astype(bool)
    in_order = variants[fits].sort_values("r", kind="stable")
    fastest = in_order.groupby("method", sort=False).head(1).index
    return variants.assign(fits=fits, chosen=variants.index.isin(fastest))


def least_over(variants: pd.DataFrame, budget: int) -> dict[str, str]:
    """For each method without a variant that fits, how far the smallest is above the budget, in words."""
    found = {}
    for method, own in variants.groupby("method", sort=False):
        measured = own.dropna(subset=["peak_bytes"])
        if measured.empty:
            found[str(method)] = "none of its variants can run: " + "; ".join(own["detail"].dropna().unique())
        elif measured["peak_bytes"].min() > budget:
            least = measured.sort_values("peak_bytes", kind="stable").iloc[0]
            over = int(least["peak_bytes"]) - budget
            needed, above, most = _sizes(int(least["peak_bytes"]), over, budget)
            found[str(method)] = (
                f"needs at least {needed}, as {least['variant']}: {above} above the budget of {most}"
            )
    return found


def frontier(rows: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """The Pareto frontier: rows that no other row beats in both columns, in the order of the first."""
    ordered = rows.dropna(subset=[first, second]).sort_values([first, second], kind="stable")
    return ordered[ordered[second] < ordered[second].cummin().shift(fill_value=float("inf"))]


def variants_of(run: RunFolder) -> pd.DataFrame:
    """Rows of variants.csv that were measured.

    Raises:
        ResultsError: a damaged table.
    """
    rows = run.read("variants")
    return rows[rows["r"].notna()][COLUMNS].reset_index(drop=True)


def _sizes(*sizes: int) -> list[str]:
    """Sizes in words, all in the unit that suits the last."""
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))
    unit, one = next((unit, one) for unit, one in units if sizes[-1] >= one)
    return [f"{size / one:.{max(len(str(size // one)), 3)}g} {unit}" for size in sizes]
