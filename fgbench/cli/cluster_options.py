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
        help="Split the work into tasks. slurm: hand them to Slurm as array jobs; local: run them on this "
        "machine, one by one. (default: no tasks)",
        rich_help_panel=CLUSTER,
    ),
]
SlurmOption = Annotated[
    list[str],
    typer.Option(
        "--slurm",
        help="An option of sbatch as key=value: partition=gpu, account=…, time=60, gres=gpu:1, "
        "constraint=…, nodelist=…. Repeatable; overrides --slurm-file. (default: none)",
        rich_help_panel=CLUSTER,
    ),
]
SlurmFile = Annotated[
    Path | None,
    typer.Option(
        help="A TOML file of such options; its key setup lists the shell lines that each task begins with. "
        "(default: ~/.config/fgbench/slurm.toml, which is always read)",
        rich_help_panel=CLUSTER,
    ),
]

Results = Annotated[
    Path,
    typer.Argument(help="The folder of a run made with --on, or one of several runs: the newest is taken."),
]
