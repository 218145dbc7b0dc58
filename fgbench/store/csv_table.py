"""One CSV file: appended to row by row, read back strictly, replaced whole and atomically."""

from __future__ import annotations

import csv
import errno
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fgbench.errors import ResultsError
from fgbench.store.schema import TABLES, headers, one_line

UNENCODABLE = "backslashreplace"  # a path that is not UTF-8 must not keep a row from being stored


def append_rows(path: Path, rows: Iterable[Mapping[Any, Any]]) -> None:
    """Append rows, flushed before this returns; the header is written with the first.

    They are one write of whole lines, so that a killed run leaves at most one torn last line.
    """
    text = lines_of(path.stem, rows)
    with path.open("ab") as file:
        if file.tell() == 0:
            text = header_of(path.stem) + text
        file.write(text)


def replace_rows(path: Path, rows: Iterable[Mapping[Any, Any]]) -> None:
    """Replace the whole table atomically: an error leaves the old one."""
    replace_bytes(path, header_of(path.stem) + lines_of(path.stem, rows))


def header_of(table: str) -> bytes:
    """The first line of a table's file."""
    return _line(TABLES[table]).encode()


def lines_of(table: str, rows: Iterable[Mapping[Any, Any]]) -> bytes:
    """Rows of a table as lines of its file."""
    columns = TABLES[table]
    return "".join(_line(_cells(columns, row)) for row in rows).encode(errors=UNENCODABLE)


def table_of_rows(table: str, rows: Iterable[Mapping[Any, Any]]) -> pd.DataFrame:
    """Rows as they would be read back from the table's file."""
    lines = header_of(table) + lines_of(table, rows)
    return table_of(Path(f"{table}.csv"), lines.split(b"\n")[:-1])


def replace_text(path: Path, text: str) -> None:
    """Replace a file atomically: an error leaves the old one."""
    replace_bytes(path, text.encode(errors=UNENCODABLE))


def replace_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically: an error leaves the old one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def try_to_write(path: Path) -> None:
    """Check that a file can be written there; what is there stays as it is.

    Raises:
        OSError: it cannot.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "this is a folder", str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.touch()
    beside.unlink()


def read_table(path: Path) -> pd.DataFrame:
    """A table as a DataFrame with the schema's columns and types; empty where the file is absent.

    Only a torn last line, which a killed run leaves, is forgiven.

    Raises:
        ResultsError: a header of another schema, or a line that does not fit it; says which.
    """
    columns = TABLES[path.stem]
    if not path.exists():
        return _frame(columns, {})
    try:
        # What follows the last newline is torn, perhaps within a character.
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror}).") from error
    return table_of(path, lines)


def table_of(path: Path, lines: list[bytes]) -> pd.DataFrame:
    """The table of some complete lines of a file, the header first; without lines it is empty.

    Raises:
        ResultsError: as `read_table`; the number of a line is the one among these.
    """
    columns = TABLES[path.stem]
    header = _checked_header(path, _split(path, 1, lines[0])) if lines else list(columns)
    found = {column: columns[column] for column in header}
    try:
        cells = _columns(found, lines[1:])
    except (ValueError, OverflowError, csv.Error):
        raise _first_fault(path, found, lines) from None
    return _frame(columns, cells, len(lines[1:]))


def _columns(columns: Mapping[str, str], lines: list[bytes]) -> dict[str, Any]:
    """Read all lines at once, column by column.

    Raises:
        ValueError, OverflowError, csv.Error: a line does not fit; which one is not known.
    """
    rows = list(csv.reader([line.decode() for line in lines], strict=True))
    # No cell holds a newline: a quote left open has swallowed the lines after it.
    if len(rows) != len(lines) or any(len(row) != len(columns) for row in rows):
        raise ValueError("lines of another length")
    by_column = zip(*rows, strict=True) if rows else ([] for _ in columns)
    return {c: _array(columns[c], list(cells)) for c, cells in zip(columns, by_column, strict=True)}


def _array(kind: str, cells: list[str]) -> Any:
    """A column's cells in its type; an empty cell is missing."""
    text = np.array(cells, dtype=object)
    given = text != ""
    if kind in ("float", "exact"):
        values = np.full(len(cells), math.nan)
        values[given] = text[given].astype(float)
        return values
    if kind == "str":
        text[~given] = None
        return pd.array(text, dtype="string")
    numbers = np.zeros(len(cells), dtype=np.int64)
    numbers[given] = text[given].astype(np.int64)
    if kind == "int":
        return pd.arrays.IntegerArray(numbers, ~given)
    if not set(cells) <= {"", "0", "1"}:
        raise ValueError("neither 0 nor 1")
    return pd.arrays.BooleanArray(numbers.astype(bool), ~given)


def _first_fault(path: Path, columns: Mapping[str, str], lines: list[bytes]) -> ResultsError:
    """An error that names the first line that does not fit; it reads cell by cell, which is slow."""
    for number, line in enumerate(lines[1:], start=2):
        try:
            cells = _split(path, number, line)
        except ResultsError as error:
            return error
        if len(cells) != len(columns):
            return ResultsError(
                f"{path}:{number}: the line has {len(cells)} cells instead of {len(columns)}."
            )
        for (column, kind), cell in zip(columns.items(), cells, strict=True):
            try:
                _array(kind, [cell])
            except (ValueError, OverflowError):
                return ResultsError(f"{path}:{number}: '{cell}' is not a value of {column} ({kind}).")
    raise AssertionError(f"{path}: every line fits alone and not together")


def _split(path: Path, number: int, line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode()], strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"{path}:{number}: not a line of CSV ({error}).") from error


def _checked_header(path: Path, cells: list[str]) -> list[str]:
    if cells not in headers(path.stem):
        odd = sorted(set(cells) ^ set(TABLES[path.stem])) or ["their order"]
        raise ResultsError(
            f"{path}: its columns are not this schema's (different: {', '.join(odd)}); "
            "read it with the fgbench version that wrote it."
        )
    return cells


def _cells(columns: Mapping[str, str], row: Mapping[str, Any]) -> list[str]:
    unknown = set(row) - set(columns)
    if unknown:
        raise KeyError(f"columns that the schema does not have: {sorted(unknown)}")
    return [_cell(kind, row.get(column)) for column, kind in columns.items()]


def _cell(kind: str, value: Any) -> str:
    if value is None or value is pd.NA:
        return ""
    if kind == "bool":
        return str(int(value))
    if kind == "float":
        return f"{float(value):.9g}"
    if kind == "exact":
        return repr(float(value))
    return one_line(str(value)) if kind == "str" else str(int(value))


def _line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(list(cells))
    return buffer.getvalue()


def _frame(columns: Mapping[str, str], cells: Mapping[str, Any], rows: int = 0) -> pd.DataFrame:
    """The table with every column of the schema; those that an older file lacks have only missing values."""
    missing = [""] * rows
    return pd.DataFrame({c: cells[c] if c in cells else _array(kind, missing) for c, kind in columns.items()})


def records(rows: pd.DataFrame) -> Iterator[dict[Any, Any]]:
    """A table's rows as they were written, with None for missing values."""
    columns = [[None if cell is pd.NA or cell != cell else cell for cell in rows[c].tolist()] for c in rows]
    for cells in zip(*columns, strict=True):
        yield dict(zip(rows.columns, cells, strict=True))
