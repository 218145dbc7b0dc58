"""The options of `fgbench run` that say what it shows, and where its results go or come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OUTPUT = "Output"

Out = Annotated[
    Path,
    typer.Option(help="The folder that gets a folder of CSVs for this run.", rich_help_panel=OUTPUT),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the result as JSON, and nothing else, on standard output.",
        rich_help_panel=OUTPUT,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Print all columns, learning rates, the parts of a step, and everything to doubt.",
        rich_help_panel=OUTPUT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would be measured and how long it would take, and end.",
        rich_help_panel=OUTPUT,
    ),
]
Repeat = Annotated[
    int,
    typer.Option(
        min=1,
        help="Make so many runs, a folder each, so that it is known how much they differ.",
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
        help="Take the options of this stored run where none is given here; alone, it repeats that run. "
        "(default: none)",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        help="Go on with a run that was cut off, where it stopped; takes no other options. (default: none)",
        rich_help_panel=OUTPUT,
    ),
]
