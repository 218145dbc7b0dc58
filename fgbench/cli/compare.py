"""`fgbench compare`: compare two results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgbench.cli.choices import TableFormat
from fgbench.errors import ResultsError, UsageError


def compare(
    a: Annotated[
        Path, typer.Argument(help="The results before: a run's folder, or one that holds several runs.")
    ],
    b: Annotated[Path, typer.Argument(help="The results after, likewise.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder for the chart. (default: charts inside B)")
    ] = None,
    format: Annotated[TableFormat, typer.Option(help="The format of the table.")] = TableFormat.TABLE,
) -> None:
    """Say what changed from A to B, by how much, and how sure that is; draw a chart of it.

    Runtime ratios are compared over runs if a side has several, and over processes otherwise. Figures that
    were measured under different conditions (device, dtype, threads, mode, optimiser, learning rates, target)
    are left out, with a line that says so.
    """
    from fgbench.charts.drawing.changes import draw_changes
    from fgbench.charts.drawing.style import print_style, save
    from fgbench.regression.difference import differences
    from fgbench.regression.formats import differences_as
    from fgbench.store.run_folder import find_runs

    found = differences(find_runs(a), find_runs(b))
    both = [difference for difference in found if difference.change.value > 0]
    if not both:
        why = "; ".join(dict.fromkeys(d.why for d in found)) or "nothing was measured"
        raise ResultsError(f"{a} and {b} have no figure that can be compared: {why}.")
    print(differences_as(format.value, found).rstrip())
    path = (out or b / "charts") / "changes.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with print_style():
            save(draw_changes(both, a.name, b.name), path)
    except OSError as error:
        raise UsageError(f"--out {path.parent}: cannot be written ({error.strerror}).") from error
    if format is TableFormat.TABLE:
        print(f"drawn {path}")
