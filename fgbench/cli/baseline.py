"""`fgbench baseline`: write the ratios of stored runs to a file that later runs are checked against."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fgbench.errors import UsageError


def baseline(
    results: Annotated[Path, typer.Argument(help="A run's folder, or one that holds many.")],
    out: Annotated[Path, typer.Option(help="The CSV to write.")] = Path("baseline.csv"),
) -> None:
    """Write a CSV with the ratio of every method, its interval, and the conditions it was measured under."""
    from fgbench.regression.baseline import write_baseline
    from fgbench.regression.entries import entries_of
    from fgbench.store.run_folder import find_runs

    entries = entries_of(find_runs(results))
    for entry in entries:
        if entry.fault:
            print(f"fgbench: left out {entry.label}: {entry.fault}", file=sys.stderr)
    sound = [entry for entry in entries if not entry.fault]
    if not sound:
        raise UsageError(f"{results} holds no ratio with an interval; run with two processes or more.")
    write_baseline(out, sound)
    print(f"{len(sound)} ratio{'s' * (len(sound) > 1)} in {out}")
