"""One CSV file: appended to row by row, read back strictly, replaced whole and atomically."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fgbench.errors import ResultsError
from fgbench.store.schema import TABLES, headers

UNENCODABLE = "backslashreplace"  # a path that is not UTF-8 must not keep a row from being stored
INT64 = range(-(2**63), 2**63)

_DTYPES = {"str": "string", "int": "Int64", "float": "float64", "bool": "boolean"}


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row, flushed before this returns; the header is written with the first.

    The row is one write of one whole line, so that a killed run leaves at most one torn last line.
    """
    append_rows(path, [row])


def append_rows(path: Path, rows: Iterable[Mapping[Any, Any]]) -> None:
    """Append rows in one write."""
    columns = TABLES[path.stem]
    text = "".join(_line(_cells(columns, row)) for row in rows)
    with path.open("ab") as file:
        if file.tell() == 0:
            text = _line(columns) + text
        file.write(text.encode(errors=UNENCODABLE))


def replace_rows(path: Path, rows: Iterable[Mapping[Any, Any]]) -> None:
    """Write the whole table to a file beside it, then put it in place: never half a table."""
    columns = TABLES[path.stem]
    text = _line(columns) + "".join(_line(_cells(columns, row)) for row in rows)
    replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(text.encode(errors=UNENCODABLE))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_table(path: Path) -> pd.DataFrame:
    """A table as a DataFrame with the schema's columns and types; empty where the file is absent.

    Only a torn last line, which a killed run leaves, is forgiven.

    Raises:
        ResultsError: a header of another schema, or a line that does not fit it; says which.
    """
    columns = TABLES[path.stem]
    if not path.exists():
        return _frame(columns, [])
    try:
        # What follows the last newline is torn, perhaps within a character.
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read ({error.strerror}).") from error
    rows: list[list[Any]] = []
    header = list(columns)
    for number, line in enumerate(lines, start=1):
        cells = _split(path, number, line)
        if number == 1:
            header = _checked_header(path, cells)
        else:
            rows.append(_parsed(path, number, {c: columns[c] for c in header}, cells))
    absent = {column: kind for column, kind in columns.items() if column not in header}
    frame = _frame({c: columns[c] for c in header}, rows)
    return frame.join(_frame(absent, [[None] * len(absent)] * len(rows)))[list(columns)]


def _split(path: Path, number: int, line: bytes) -> list[str]:
    # Line by line, as no cell holds a newline: a quote left open does not swallow the lines after it.
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


def _parsed(path: Path, line: int, columns: Mapping[str, str], cells: list[str]) -> list[Any]:
    if len(cells) != len(columns):
        raise ResultsError(f"{path}:{line}: has {len(cells)} cells, {len(columns)} are expected.")
    values = []
    for (column, kind), cell in zip(columns.items(), cells, strict=True):
        try:
            values.append(_value(kind, cell))
        except ValueError:
            raise ResultsError(f"{path}:{line}: '{cell}' is not a value of {column} ({kind}).") from None
    return values


def _value(kind: str, cell: str) -> Any:
    if cell == "":
        return math.nan if kind == "float" else None
    if kind == "bool":
        return bool(("0", "1").index(cell))
    if kind == "int" and int(cell) not in INT64:
        raise ValueError(cell)
    return {"str": str, "int": int, "float": float}[kind](cell)


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
        return repr(float(value))
    return " ".join(str(value).split()) if kind == "str" else str(int(value))


def _line(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(list(cells))
    return buffer.getvalue()


def _frame(columns: Mapping[str, str], rows: list[list[Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(columns), dtype=object)
    return frame.astype({column: _DTYPES[kind] for column, kind in columns.items()})
