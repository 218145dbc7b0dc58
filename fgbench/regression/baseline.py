"""A baseline: a CSV with one ratio in a row, small enough to review, and all that makes ratios comparable."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from fgbench.errors import ResultsError, UsageError
from fgbench.regression.entry import Entry
from fgbench.store.csv_table import replace_text

FIGURES = ("ratio", "low", "high", "spread", "within", "floor")  # written with five digits
COLUMNS = tuple(f.name for f in fields(Entry) if f.name not in ("fault", "aa"))
OLDER_COLUMNS = COLUMNS[: COLUMNS.index("cuda")]  # older baselines also have only torch's minor version
READ = (COLUMNS, *(COLUMNS[: COLUMNS.index(name)] for name in ("validation_size", "trained")), OLDER_COLUMNS)


def write_baseline(path: Path, entries: Sequence[Entry]) -> None:
    """Write entries as a CSV, sorted, so that a diff shows what changed.

    Raises:
        UsageError: the file cannot be written, or is a folder.
    """
    if path.is_dir():
        raise UsageError(f"--out {path}: this is a folder; name a file.")
    lines = io.StringIO()
    writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for entry in sorted(entries):
        row = {**vars(entry)}
        writer.writerow(row | {k: f"{row[k]:.5g}" for k in FIGURES})
    try:
        replace_text(path, lines.getvalue())
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written ({error.strerror}).") from error


def read_baseline(path: Path) -> list[Entry]:
    """The entries of a baseline.

    Raises:
        ResultsError: the file cannot be read, is not a baseline, or has a ratio twice, as a merge by git may
            leave it; the message names the line.
    """
    if not path.exists():
        raise ResultsError(f"there is no {path}: `fgbench baseline RESULTS --out {path}` writes one.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: cannot be read as a baseline ({error}).") from error
    reader = csv.DictReader(io.StringIO(text))
    columns = tuple(reader.fieldnames or ())
    if columns not in READ:
        raise ResultsError(f"{path}: not a baseline of this version; `fgbench baseline` writes one.")
    known = {"int": int, "float": float, "str": str}
    kinds = {f.name: known[str(f.type)] for f in fields(Entry) if f.name in COLUMNS}
    entries: list[Entry] = []
    lines: dict[tuple[object, ...], int] = {}
    for row in reader:
        try:
            entry = Entry(**{name: kinds[name](row[name]) for name in columns})
            sound = (
                0 < entry.low <= entry.ratio <= entry.high < math.inf and min(entry.degrees, entry.runs) >= 1
            )
            shares = (entry.spread, entry.within, entry.floor)
            sound = sound and all(share >= 0 for share in shares)  # nor NaN
        except (TypeError, ValueError):
            sound = False
        if not sound or None in row or None in row.values():  # a cell too many, or too few
            raise ResultsError(f"{path}:{reader.line_num}: not a row of a baseline.")
        before = lines.setdefault((entry.identity, entry.conditions), reader.line_num)
        if before != reader.line_num:
            raise ResultsError(f"{path}:{reader.line_num}: the same ratio as in line {before}; keep one.")
        entries.append(entry)
    return entries
