"""`fgbench history`: show each ratio over many runs, and where it changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgbench.cli.choices import TableFormat
from fgbench.cli.values import share
from fgbench.errors import ResultsError, UsageError


def history(
    results: Annotated[Path, typer.Argument(help="A folder that holds many runs.")] = Path("results"),
    out: Annotated[
        Path | None, typer.Option(help="The folder for the charts. (default: charts inside RESULTS)")
    ] = None,
    tolerance: Annotated[
        str, typer.Option(help="Only changes beyond this share are marked, as machines drift.")
    ] = "2%",
    format: Annotated[TableFormat, typer.Option(help="The format of the table.")] = TableFormat.TABLE,
) -> None:
    """Draw every ratio against time and commit, and mark where it changed for good.

    A change needs three runs on either side and eleven in all; one in a hundred series without a change is
    marked falsely.
    """
    import re

    from fgbench.charts.drawing.history import draw_history
    from fgbench.charts.drawing.style import print_style, save
    from fgbench.regression.formats import histories_as
    from fgbench.regression.history import histories
    from fgbench.store.run_folder import find_runs

    found = histories(find_runs(results), share("--tolerance", tolerance))
    if not found:
        raise ResultsError(f"{results} holds no ratio with an interval; run with two processes or more.")
    print(histories_as(format.value, found).rstrip())
    folder = out or results / "charts"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with print_style():
            for series in found:
                entry = series.points[-1].entry
                slug = re.sub(r"[^a-z0-9.]+", "-", f"{entry.label} {entry.where}".lower()).strip("-")
                path = folder / f"history_{slug}.png"
                save(draw_history(series), path)
                if format is TableFormat.TABLE:
                    print(f"drawn {path}")
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written ({error.strerror}).") from error
