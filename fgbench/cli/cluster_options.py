"""The options of `fgbench run` that hand its work to a cluster, in a panel of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgbench.cli.choices import Where

CLUSTER = "On a cluster"

On = Annotated[
    Where | None,
    typer.Option(
        help="Hand the work out in tasks: slurm makes array jobs of them, local runs them here one by one. "
        "(default: no tasks, all of it in this run)",
        rich_help_panel=CLUSTER,
    ),
]
SlurmOption = Annotated[
    list[str],
    typer.Option(
        "--slurm",
        help="An option of sbatch as key=value: partition=gpu, account=…, time=60, gres=gpu:1, "
        "constraint=…, nodelist=…. Repeatable; the last word over files. (default: none)",
        rich_help_panel=CLUSTER,
    ),
]
SlurmFile = Annotated[
    Path | None,
    typer.Option(
        help="Such options in a TOML file; setup is a list of lines that each task begins with. (default: "
        "~/.config/fgbench/slurm.toml alone)",
        rich_help_panel=CLUSTER,
    ),
]

Results = Annotated[
    Path,
    typer.Argument(help="Folder of a run with --on, or one that holds some, of which the newest is meant."),
]
