"""CSV tables: what is written is what is read, and only a torn last line is forgiven."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgbench.errors import ResultsError
from fgbench.store import csv_table
from fgbench.store.csv_table import append_rows, read_table, replace_rows, replace_text, try_to_write
from fgbench.store.schema import ADDED, SCHEMA_VERSION, TABLES, headers

CELLS = {
    "str": st.text(max_size=20)
    | st.sampled_from(['a "quoted", one', "é×ü", "日本, 語", "a\nb\r\nc", "'", '"', "nan", "0"]),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32),  # nine digits are kept, which tell these apart
    "exact": st.floats(),
    "bool": st.booleans(),
}


def rows_of(table: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = st.fixed_dictionaries(
        {}, optional={name: st.none() | CELLS[kind] for name, kind in TABLES[table].items()}
    )
    return st.lists(row, max_size=4)


def as_read(kind: str, value: Any) -> Any:
    """What a cell becomes: text on one line with single spaces, nothing as missing."""
    if kind == "str" and value is not None:
        value = " ".join(value.encode(errors="backslashreplace").decode().split()) or None
    return value


def one_row(table: str = "curves", **changes: Any) -> dict[str, Any]:
    plain = {"str": 'x, “y” "z"', "int": 3, "float": 0.25, "exact": 0.25, "bool": True}
    return {**{name: plain[kind] for name, kind in TABLES[table].items()}, **changes}


def file_of(folder: Path, table: str = "curves", rows: int = 3) -> Path:
    path = folder / f"{table}.csv"
    for number in range(rows):
        append_rows(path, [one_row(table, **({"iteration": number} if table == "curves" else {}))])
    return path


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_table_reads_back_what_was_written(table, tmp_path, data):
    rows = data.draw(rows_of(table))
    path = tmp_path / f"{table}.csv"
    path.unlink(missing_ok=True)
    for row in rows:
        append_rows(path, [row])
    found = read_table(path)
    assert list(found.columns) == list(TABLES[table])
    assert len(found) == len(rows)
    for number, row in enumerate(rows):
        for name, kind in TABLES[table].items():
            wanted, got = as_read(kind, row.get(name)), found[name].iloc[number]
            if wanted is None or wanted != wanted:
                assert pd.isna(got), (name, got)
            elif kind == "float":
                assert np.float32(got) == wanted, (name, got, wanted)
            else:
                assert got == wanted, (name, got, wanted)


@pytest.mark.parametrize("table", TABLES)
def test_replacing_a_table_by_what_was_read_from_it_changes_no_value(table, tmp_path):
    path = tmp_path / f"{table}.csv"
    append_rows(path, [one_row(table), {}, one_row(table)])
    before = read_table(path)
    replace_rows(path, before.to_dict("records"))
    pd.testing.assert_frame_equal(read_table(path), before)


def test_infinite_is_kept_and_missing_is_empty_never_0(tmp_path):
    path = tmp_path / "search.csv"
    append_rows(path, [{"group": "g", "validation_loss": math.inf, "full": False}])
    assert path.read_text().splitlines()[1] == "g,,,,,0,,,inf,,,,,"
    found = read_table(path)
    assert found["validation_loss"].iloc[0] == math.inf
    assert pd.isna(found["iterations"].iloc[0])


def test_columns_have_the_schemas_types_also_where_there_is_no_file(tmp_path):
    types = {"str": "string", "int": "Int64", "float": "float64", "exact": "float64", "bool": "boolean"}
    for table, columns in TABLES.items():
        found = read_table(tmp_path / f"{table}.csv")
        assert found.empty
        assert {name: str(kind) for name, kind in found.dtypes.items()} == {
            n: types[k] for n, k in columns.items()
        }


def test_header_is_written_once(tmp_path):
    assert file_of(tmp_path, rows=2).read_text().count("validation_accuracy") == 1


def test_what_is_measured_has_nine_digits_and_what_was_given_has_them_all(tmp_path):
    path = file_of(tmp_path, "search", rows=1)
    append_rows(path, [one_row("search", learning_rate=0.1 + 0.2, train_seconds=1234567.891)])
    last = read_table(path).iloc[-1]
    assert last["learning_rate"] == 0.1 + 0.2
    assert last["train_seconds"] == 1234567.89


def test_a_column_that_the_schema_does_not_have_is_not_written(tmp_path):
    with pytest.raises(KeyError, match="colour"):
        append_rows(tmp_path / "curves.csv", [{"colour": "red"}])
    assert not (tmp_path / "curves.csv").exists()


@pytest.mark.parametrize("table", ["curves", "jobs", "search"])
def test_cut_anywhere_every_whole_line_is_still_read(table, tmp_path):
    """What kill -9 can leave, at every byte; the rows hold commas, quotes and characters of many bytes."""
    whole = file_of(
        tmp_path / "whole" if (tmp_path / "whole").mkdir() is None else tmp_path, table
    ).read_bytes()
    path = tmp_path / f"{table}.csv"
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        lines = whole[:cut].count(b"\n")
        assert len(read_table(path)) == max(lines - 1, 0), cut


def test_a_try_to_write_leaves_what_is_there(tmp_path):
    (tmp_path / "there").write_text("mine")
    try_to_write(tmp_path / "there")
    try_to_write(tmp_path / "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("there", "mine")]
    for path in (tmp_path, tmp_path / "absent" / "new"):
        with pytest.raises(OSError):
            try_to_write(path)


def test_a_character_that_is_not_unicode_does_not_keep_a_row_from_being_stored(tmp_path):
    path = tmp_path / "jobs.csv"
    append_rows(path, [{"detail": "no file b\udcff.py"}])
    assert read_table(path)["detail"].iloc[0] == "no file b\\udcff.py"


class TestDamage:
    def damaged(self, folder: Path, old: str, new: str, table: str = "curves") -> str:
        path = file_of(folder, table)
        lines = path.read_text().splitlines(keepends=True)
        assert old in lines[2]
        lines[2] = lines[2].replace(old, new, 1)
        path.write_text("".join(lines))
        with pytest.raises(ResultsError) as caught:
            read_table(path)
        message = str(caught.value)
        assert message.startswith(f"{path}:3: "), message
        assert "\n" not in message
        return message

    def test_too_few_cells(self, tmp_path):
        assert "has 10 cells instead of 11" in self.damaged(tmp_path, ",0.25,0.25", ",0.25")

    def test_a_number_that_is_none(self, tmp_path):
        assert "'x1' is not a value of iteration (int)" in self.damaged(tmp_path, ",1,", ",x1,")

    def test_a_float_where_an_int_must_be(self, tmp_path):
        self.damaged(tmp_path, ",1,", ",1.5,")

    def test_an_int_too_large(self, tmp_path):
        self.damaged(tmp_path, ",1,", ",99999999999999999999,")

    def test_a_float_that_is_none(self, tmp_path):
        self.damaged(tmp_path, "0.25", "0.2.5")

    @pytest.mark.parametrize("cell", ["01", "2", "true", "-1"])
    def test_a_bool_that_is_none(self, tmp_path, cell):
        assert "(bool)" in self.damaged(tmp_path, ",1,", f",{cell},", table="search")

    def test_a_quote_that_is_never_closed(self, tmp_path):
        self.damaged(tmp_path, '""z"""', '""z""')

    def test_an_empty_line(self, tmp_path):
        path = file_of(tmp_path)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:2], "\n", *lines[2:]]))
        with pytest.raises(ResultsError, match=r"curves\.csv:3: the line has 0 cells"):
            read_table(path)

    def test_a_line_glued_to_the_next(self, tmp_path):
        path = file_of(tmp_path)
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([lines[0], lines[1].rstrip("\n"), *lines[2:]]))
        with pytest.raises(ResultsError, match=r"curves\.csv:2: "):
            read_table(path)

    def test_text_that_is_not_utf_8(self, tmp_path):
        path = file_of(tmp_path)
        lines = path.read_bytes().splitlines(keepends=True)
        lines[2] = b"\xff\xfe" + lines[2]
        path.write_bytes(b"".join(lines))
        with pytest.raises(ResultsError, match=r"curves\.csv:3: not a line of CSV"):
            read_table(path)

    def test_another_header(self, tmp_path):
        path = tmp_path / "memory.csv"
        path.write_text("group,method,kind,megabytes\ng,m,k,1\n")
        with pytest.raises(ResultsError, match=r"different: bytes, megabytes"):
            read_table(path)

    def test_columns_in_another_order(self, tmp_path):
        path = tmp_path / "memory.csv"
        path.write_text("method,group,kind,bytes\n")
        with pytest.raises(ResultsError, match="their order"):
            read_table(path)

    def test_a_folder_in_the_files_place(self, tmp_path):
        (tmp_path / "memory.csv").mkdir()
        with pytest.raises(ResultsError, match="cannot be read"):
            read_table(tmp_path / "memory.csv")


class TestReplacing:
    def test_a_failing_write_leaves_the_old_file_and_nothing_beside_it(self, tmp_path, monkeypatch):
        path = file_of(tmp_path)
        before = path.read_bytes()

        def full(_file: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(csv_table.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            replace_rows(path, [one_row()])
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["curves.csv"]

    def test_rows_that_fail_half_way_leave_the_old_file(self, tmp_path):
        path = file_of(tmp_path)
        before = path.read_bytes()
        with pytest.raises(KeyError):
            replace_rows(path, [one_row(), {"colour": "red"}])
        assert path.read_bytes() == before

    def test_a_reader_sees_the_old_file_or_the_new_never_half(self, tmp_path, monkeypatch):
        path = file_of(tmp_path)
        seen: list[int] = []
        really = csv_table.os.fsync
        monkeypatch.setattr(
            csv_table.os, "fsync", lambda file: (seen.append(len(read_table(path))), really(file))
        )
        replace_rows(path, [one_row()] * 7)
        assert (seen, len(read_table(path))) == ([3], 7)

    def test_text_is_utf_8_whatever_the_locale(self, tmp_path, monkeypatch):
        monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
        replace_text(tmp_path / "run.json", "é\n")
        assert (tmp_path / "run.json").read_bytes() == "é\n".encode()


def test_schema_has_units_in_its_names_and_known_types():
    assert SCHEMA_VERSION == 7, "a change of TABLES is a new version, with its line of history"
    for columns in TABLES.values():
        assert set(columns.values()) <= {"str", "int", "float", "exact", "bool"}
        assert columns["group"] == columns["method"] == "str"


@pytest.mark.parametrize("table", sorted({table for tables in ADDED.values() for table in tables}))
def test_a_table_of_an_older_version_reads_with_what_it_lacks_missing(tmp_path, table):
    older = headers(table)[-1]
    path = tmp_path / f"{table}.csv"
    values = {"str": "x", "int": "1", "float": "0.5", "exact": "0.5", "bool": "1"}
    path.write_text(",".join(older) + "\n" + ",".join(values[TABLES[table][c]] for c in older) + "\n")
    found = read_table(path)
    assert list(found.columns) == list(TABLES[table])
    assert found[[c for c in TABLES[table] if c not in older]].isna().all(axis=None)
    assert found[older].notna().all(axis=None)
    assert {c: str(t) for c, t in found.dtypes.items()} == {
        c: str(t) for c, t in read_table(tmp_path / "absent" / f"{table}.csv").dtypes.items()
    }
