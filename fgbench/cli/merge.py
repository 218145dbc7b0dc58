"""`fgbench merge`: what several runs brought back, as one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgbench.cli.choices import Keep
from fgbench.cli.cluster import Notes


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    keep: Annotated[
        Keep,
        typer.Option(help="Of processes that are in several runs: all of them, or the last run's."),
    ] = Keep.ALL,
    out: Annotated[Path, typer.Option(help="Folder that gets a folder for the merged run.")] = Path(
        "results"
    ),
) -> None:
    """Join runs into one: the shards of a grid, or processes and seeds of the same matched groups.

    Their methods and protocol must be equal. A group that was measured on another machine, with another
    update or at another learning rate than in the last run is refused, and said in a line. Of a seed that is
    in several runs the last one's is kept.
    """
    from fgbench.report import show
    from fgbench.running.merge import merge as merge_runs
    from fgbench.store.run_folder import find_runs

    show(merge_runs([run for path in runs for run in find_runs(path)], out, keep.value, Notes()))
