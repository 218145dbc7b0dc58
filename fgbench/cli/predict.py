"""`fgbench predict`: predict what a stored run's steps would take on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    results: Annotated[Path, typer.Argument(help="A run's folder, or one that holds many.")],
    device: Annotated[
        str,
        typer.Option(
            help="The machine's rates, as in FLOPS=989e12,BYTES=3.35e12,LAUNCH=4e-6: FLOPs a second, bytes a "
            "second, and seconds to start an operation. RANDOM: random numbers a second (default: as fast as "
            "they can be written). QUEUED=0: for a machine that starts an operation when the last one is "
            "done, as a CPU does."
        ),
    ],
) -> None:
    """Predict R and the ratio for a machine from the FLOPs, bytes and operations that a run counted.

    A prediction is not a measurement: it is printed, and never stored among results.
    """
    import pandas as pd
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from fgbench.report.figures import folded, folded_width, number, seconds
    from fgbench.store.run_folder import find_runs
    from fgbench.summary.prediction import parse_device, predicted

    machine = parse_device(device)
    runs = find_runs(results)
    rows = pd.concat([predicted(run, machine).assign(run=str(run.path)) for run in runs])
    console = Console(highlight=False)
    for (run, group), own in rows.groupby(["run", "group"], sort=False):
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("method", style="bold", min_width=folded_width(own["method"]))
        for heading in ("\nstep", "\nR", "\nratio", "most\nof it", "ratio\nmeasured"):
            table.add_column(heading, justify="right", no_wrap=True)
        for row in own.to_dict("records"):
            figures = (number(row[name]) for name in ("r", "ratio"))
            table.add_row(
                folded(row["method"]),
                seconds(row["seconds"]),
                *figures,
                row["bound_by"],
                number(row["measured"]),
            )
        of = f" of {run}" * (len(runs) > 1)
        console.print(f"[bold]{group}{of}, PREDICTED for {device}[/bold]")
        console.print(table)
    console.print(
        "Nothing was measured on that machine. Predicted: eager steps, one operation after the other at "
        "these rates; no cache, no fusion, and small products as fast as large ones. The last column is what "
        "the run measured where it was made."
    )
