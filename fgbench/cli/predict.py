"""`fgbench predict`: what a stored run's steps would take on a machine that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    results: Annotated[Path, typer.Argument(help="A run's folder, or one that holds many.")],
    device: Annotated[
        str,
        typer.Option(
            help="The machine's rates: FLOPS and BYTES a second, LAUNCH seconds an operation, as in "
            "FLOPS=989e12,BYTES=3.35e12,LAUNCH=4e-6. RANDOM: random numbers a second, as fast as they are "
            "written where left out. QUEUED=0: a machine that starts an operation when the last is done, as "
            "a CPU."
        ),
    ],
) -> None:
    """Predict R and the ratio for a machine from the FLOPs, bytes and operations that a run counted.

    A prediction is no measurement: it is printed, and never stored among results.
    """
    import pandas as pd
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from fgbench.report.figures import number, seconds
    from fgbench.store.run_folder import find_runs
    from fgbench.summary.prediction import parse_device, predicted

    machine = parse_device(device)
    rows = pd.concat([predicted(run, machine) for run in find_runs(results)])
    console = Console(highlight=False)
    for group, own in rows.groupby("group", sort=False):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("method", style="bold", overflow="fold")
        for heading in (
            "step\npredicted",
            "R\npredicted",
            "ratio\npredicted",
            "most of it",
            "ratio\nmeasured",
        ):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in own.to_dict("records"):
            figures = (number(row[name]) for name in ("r", "ratio"))
            table.add_row(
                row["method"], seconds(row["seconds"]), *figures, row["bound_by"], number(row["measured"])
            )
        console.print(f"[bold]{group}, PREDICTED for {device}[/bold]")
        console.print(table)
    console.print(
        "Nothing was measured on that machine. Predicted: eager steps, one operation after the other at "
        "these rates; no cache, no fusion, and small products as fast as large ones. The last column is what "
        "the run measured where it was made."
    )
