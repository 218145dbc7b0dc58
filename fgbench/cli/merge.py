"""`fgbench merge`: what the shards of a grid brought back, as one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or folders that hold some.")],
    out: Annotated[Path, typer.Option(help="Folder that gets a folder for the merged run.")] = Path(
        "results"
    ),
) -> None:
    """Join the runs of `--shard 1/n` to `n/n`, from one machine or several, into one.

    Their options must be equal but for the shard, and no matched group may be in two of them.
    """
    from fgbench.report import show
    from fgbench.store.merge import merge as merge_runs
    from fgbench.store.run_folder import find_runs

    show(merge_runs([run for path in runs for run in find_runs(path)], out))
