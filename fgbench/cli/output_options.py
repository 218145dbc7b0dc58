"""The options of `fgbench run` that say what it shows, and where its results go or come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OUTPUT = "Output"

Out = Annotated[
    Path,
    typer.Option(help="The folder in which this run gets a folder of CSVs.", rich_help_panel=OUTPUT),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print only the result, as JSON, on standard output.",
        rich_help_panel=OUTPUT,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Print all columns, learning rates, the parts of a step, and all warnings.",
        rich_help_panel=OUTPUT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would be measured and how long it would take; measure nothing.",
        rich_help_panel=OUTPUT,
    ),
]
Repeat = Annotated[
    int,
    typer.Option(
        min=1,
        help="Make so many runs, each with a folder of its own, to see how much they differ.",
        rich_help_panel=OUTPUT,
    ),
]
Shard = Annotated[
    str,
    typer.Option(
        help="Measure only every n-th matched group, from the i-th on, as in 2/3 for i/n; `fgbench merge` "
        "joins the n runs. (default: all groups)",
        rich_help_panel=OUTPUT,
    ),
]
Like = Annotated[
    Path | None,
    typer.Option(
        help="Take the options that are not given here from this stored run; without others it repeats that "
        "run. (default: none)",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Continue a run that was cut off, where it stopped, or add seeds to one that is done, as in "
        "--seeds 7; takes no other options than --seeds, --slurm, --json, --verbose and --dry-run. "
        "(default: none)",
        rich_help_panel=OUTPUT,
    ),
]
