"""`fgbench report`: write the results of stored runs as a page to share, or as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fgbench.errors import UsageError

FILES = {"html": "report.html", "markdown": "README.md"}


def report(
    results: Annotated[Path, typer.Argument(help="A run's folder, or one that holds many.")] = Path(
        "results"
    ),
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write. (default: report.html or README.md inside RESULTS)"),
    ] = None,
    format: Annotated[
        str,
        typer.Option(help="html: one self-contained page, to open or to mail; markdown: its tables."),
    ] = "html",
) -> None:
    """Write what was found into one file: verdicts, all figures, charts, and the papers' claims."""
    if format not in FILES:
        raise UsageError(f"--format {format}: must be one of {', '.join(FILES)}.")
    from rich.console import Console
    from rich.markup import escape

    from fgbench.measurement.environment import usable_cores
    from fgbench.page import write_markdown, write_page

    path = out or results / FILES[format]
    if format == "html":
        write_page(results, path, processes=usable_cores())
    else:
        write_markdown(results, path)
    Console(highlight=False, soft_wrap=True).print(f"[green]written[/green] {escape(str(path))}")
