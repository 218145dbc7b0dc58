"""The page to share: the results of a folder of runs in one self-contained HTML file, or in Markdown.

The template, the style and the script are in this folder; Jinja2 escapes every name that a user chose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fgbench.errors import ResultsError, UsageError
from fgbench.store.csv_table import replace_text, try_to_write

OURS = "<!-- Written by fgbench report --format markdown: changes made by hand are lost. -->"


def write_page(source: Path, out: Path, *, processes: int = 1) -> None:
    """Write the HTML page of a run, or of a folder of runs; an error leaves no half-written file.

    Args:
        source: the folder.
        out: the file; it is replaced.
        processes: how many processes draw charts side by side, as for `fgbench.charts.draw_all`.

    Raises:
        ResultsError: there is no run, or one is damaged or has another schema.
        UsageError: the file cannot be written.
    """
    from fgbench.page.collecting import collect
    from fgbench.page.drawing import draw
    from fgbench.page.template import render

    _check(source, out)
    found = collect(source)
    _write(out, render(found, draw(found.comparisons, processes)))


def write_markdown(source: Path, out: Path) -> None:
    """Write the tables of a folder of runs as Markdown; an error leaves no half-written file.

    Raises:
        ResultsError: there is no run, or one is damaged or has another schema.
        UsageError: the file cannot be written, or fgbench did not write the one that is there.
    """
    from fgbench.page.collecting import collect
    from fgbench.page.markdown import markdown

    _check(source, out)
    if out.exists() and not out.read_text(encoding="utf-8", errors="replace").startswith(OURS):
        raise UsageError(
            f"--out {out}: this file exists and was not written by fgbench report; name another file."
        )
    _write(out, f"{OURS}\n\n{markdown(collect(source))}")


def _check(source: Path, out: Path) -> None:
    """Refuse an impossible folder or file before minutes are spent on drawing.

    Raises:
        ResultsError: the source is no folder.
        UsageError: the file is a folder, its folder does not exist, or it cannot be written.
    """
    if not source.is_dir():
        raise ResultsError(f"{source}: there is no such folder; `fgbench run` makes one.")
    if out.is_dir() or not out.parent.is_dir():
        why = "this is a folder" if out.is_dir() else "its folder does not exist"
        raise UsageError(f"--out {out}: {why}; name a file in a folder that can be written.")
    with _writing(out):
        try_to_write(out)


def _write(out: Path, text: str) -> None:
    with _writing(out):
        replace_text(out, text)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"--out {out}: cannot be written ({error.strerror}); name a file that can be written."
        ) from error
