"""`fgbench merge`: join several runs into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgbench.cli.choices import Keep
from fgbench.cli.cluster import notes


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    keep: Annotated[
        Keep,
        typer.Option(
            help="Which processes are kept if several runs timed the same group: all, or the last run's."
        ),
    ] = Keep.ALL,
    out: Annotated[Path, typer.Option(help="The folder in which the merged run gets a folder.")] = Path(
        "results"
    ),
) -> None:
    """Join runs into one: the shards of a grid, or processes and seeds of the same matched groups.

    The methods and the protocol of the runs must be equal. A group that was measured on another machine, with
    another update or at another learning rate than in the last run is refused, with a line that says so, and
    so is a run of which that leaves nothing. If several runs have the same seed, the last run's is kept.
    """
    from fgbench.report import show
    from fgbench.running.merge import merge as merge_runs
    from fgbench.store.run_folder import find_runs

    show(merge_runs([run for path in runs for run in find_runs(path)], out, keep.value, notes()))
