"""`fgbench check`: stored runs against a baseline; its exit code is the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgbench.errors import UsageError

INCONCLUSIVE = ("pass", "fail")


def check(
    results: Annotated[Path, typer.Argument(help="The run to judge, or a folder that holds several.")],
    baseline: Annotated[Path, typer.Option(help="What `fgbench baseline` wrote.")] = Path("baseline.csv"),
    tolerance: Annotated[
        str, typer.Option(help="By how much a ratio may grow: 5% or 0.05. The A/A floor counts where larger.")
    ] = "5%",
    allow_mismatch: Annotated[
        bool,
        typer.Option("--allow-mismatch", help="Compare results of another device or torch all the same."),
    ] = False,
    inconclusive: Annotated[
        str, typer.Option(help="Whether what cannot be told may pass (exit code 0) or fails (3).")
    ] = "fail",
    format: Annotated[str, typer.Option(help="table, markdown, junit, github or json.")] = "table",
) -> None:
    """Say whether a runtime ratio got worse: PASS, IMPROVED, REGRESSED, INCONCLUSIVE or INVALID for each.

    Exit codes: 0 pass or improved, 1 regressed, 2 wrong use, 3 inconclusive, 4 invalid or nothing measured.
    """
    from fgbench.regression.baseline import cells_of, read_baseline
    from fgbench.regression.formats import FORMATS
    from fgbench.regression.verdict import check as judge
    from fgbench.regression.verdict import exit_code
    from fgbench.store.run_folder import find_runs

    if format not in FORMATS:
        raise UsageError(f"--format {format}: must be one of {', '.join(FORMATS)}.")
    if inconclusive not in INCONCLUSIVE:
        raise UsageError(f"--inconclusive {inconclusive}: must be one of {', '.join(INCONCLUSIVE)}.")
    margin = _share(tolerance)
    held = read_baseline(baseline)
    verdicts = judge(held, cells_of(find_runs(results)), margin, allow_mismatch=allow_mismatch)
    print(FORMATS[format](verdicts).rstrip())
    raise typer.Exit(exit_code(verdicts, inconclusive_passes=inconclusive == "pass"))


def _share(asked: str) -> float:
    try:
        share = float(asked.removesuffix("%")) / (100 if asked.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(f"--tolerance {asked}: must be a share below 1, as in 5% or 0.05.")
    return share
