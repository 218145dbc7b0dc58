"""The page to share: what a folder of runs says in one HTML file that needs no other, or in Markdown.

The template, the style and the script lie beside the code; Jinja2 escapes every name that a user chose.
"""

from __future__ import annotations

from pathlib import Path

from fgbench.errors import UsageError
from fgbench.store.csv_table import replace_text

OURS = "<!-- Written by fgbench report --format markdown: changes made by hand are lost. -->"


def write_page(source: Path, out: Path, *, processes: int = 1) -> None:
    """Write the HTML page of a run, or of a folder that holds many, whole or not at all.

    Args:
        source: the folder.
        out: the file; it is replaced.
        processes: that draw charts side by side, see `fgbench.charts.draw_all`.

    Raises:
        ResultsError: no run, a damaged one, or one of another schema.
        UsageError: the file cannot be written.
    """
    from fgbench.page.collecting import collect
    from fgbench.page.drawing import draw
    from fgbench.page.template import render

    _check_writable(out)
    found = collect(source)
    _write(out, render(found, draw(found.comparisons, processes)))


def write_markdown(source: Path, out: Path) -> None:
    """Write the tables of a folder of runs as Markdown, whole or not at all.

    Raises:
        ResultsError: no run, a damaged one, or one of another schema.
        UsageError: the file cannot be written, or is one that somebody wrote by hand.
    """
    from fgbench.page.collecting import collect
    from fgbench.page.markdown import markdown

    _check_writable(out)
    if out.exists() and not out.read_text(errors="replace").startswith(OURS):
        raise UsageError(f"--out {out}: is there and was not written by fgbench report; name another file.")
    _write(out, f"{OURS}\n\n{markdown(collect(source))}")


def _check_writable(out: Path) -> None:
    """Before minutes are spent on what could not be stored."""
    if out.is_dir() or not out.parent.is_dir():
        why = "is a folder" if out.is_dir() else "its folder is not there"
        raise UsageError(f"--out {out}: {why}; name a file in a folder that can be written.")


def _write(out: Path, text: str) -> None:
    try:
        replace_text(out, text)
    except OSError as error:
        raise UsageError(
            f"--out {out}: cannot be written ({error.strerror}); name a file that can."
        ) from error
