"""`fgbench plot`: draw the charts of a folder of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgbench.cli.choices import ChartFormat


def plot(
    results: Annotated[Path, typer.Argument(help="A run's folder, or one that holds many.")] = Path(
        "results"
    ),
    out: Annotated[
        Path | None, typer.Option(help="The folder for the charts. (default: charts inside RESULTS)")
    ] = None,
    format: Annotated[ChartFormat, typer.Option(help="The format of the charts.")] = ChartFormat.PNG,
) -> None:
    """Draw what was measured: runtime ratio, runtimes, memory, loss curves, time to target.

    A chart whose data is missing is left out, with a line that says why.
    """
    from rich.console import Console
    from rich.markup import escape

    from fgbench.charts import draw_all
    from fgbench.measurement.environment import usable_cores

    console = Console(highlight=False, soft_wrap=True)
    for drawn in draw_all(results, out or results / "charts", format.value, processes=usable_cores()):
        if drawn.path:
            console.print(f"[green]drawn[/green] {escape(str(drawn.path))}")
        else:
            console.print(f"[yellow]left out[/yellow] {drawn.chart}: {escape(drawn.reason)}")
