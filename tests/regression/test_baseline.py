"""Baselines: written for a reviewer, read strictly, made of what a run holds."""

from __future__ import annotations

import csv
import dataclasses
import re
from pathlib import Path

import pytest

from fgbench.errors import ResultsError, UsageError
from fgbench.regression.baseline import COLUMNS, OLDER_COLUMNS, read_baseline, write_baseline
from fgbench.regression.entry import another_contract, differing
from tests.regression.test_checking import ENTRY


def test_it_is_read_back_as_it_was_written_and_sorted(tmp_path):
    entries = [dataclasses.replace(ENTRY, depth=depth) for depth in (16, 1, 8)]
    write_baseline(tmp_path / "b.csv", entries)
    assert read_baseline(tmp_path / "b.csv") == sorted(entries)
    lines = (tmp_path / "b.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert [line.split(",")[2] for line in lines[1:]] == ["1", "8", "16"]


def test_the_same_cells_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_baseline(
            tmp_path / name, [ENTRY, dataclasses.replace(ENTRY, depth=1)][:: 1 if name == "one" else -1]
        )
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("ratio,", "ration,", "not a baseline"),
        ("1.98", "3.5", ":2: not a row"),
        ("1.98", "x", ":2: not a row"),
        (",4,5,", ",0,5,", ":2: not a row"),
        ("0.008", "-1", ":2: not a row"),
        ("0.004", "nan", ":2: not a row"),
        (",0.01,", ",nan,", ":2: not a row"),
        (",c0,", ",", ":2: not a row"),
    ],
)
def test_a_damaged_one_is_named_with_its_line(tmp_path, old, new, line):
    path = tmp_path / "b.csv"
    write_baseline(path, [ENTRY])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ResultsError, match=line):
        read_baseline(path)


def test_one_that_is_not_there_or_cannot_be_written_is_one_line(tmp_path):
    absent = tmp_path / "absent.csv"
    line = f"there is no {absent}: `fgbench baseline RESULTS --out {absent}` writes one."
    with pytest.raises(ResultsError, match=re.escape(line)):
        read_baseline(absent)
    with pytest.raises(ResultsError, match="cannot be read"):
        read_baseline(tmp_path)
    with pytest.raises(UsageError, match="--out"):
        write_baseline(tmp_path / "no" / "b.csv", [ENTRY])


def test_a_folder_is_no_file_to_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, Path()):
        with pytest.raises(UsageError, match="is a folder"):
            write_baseline(folder, [ENTRY])


def test_a_ratio_that_is_there_twice_is_named_with_both_lines(tmp_path):
    path = tmp_path / "b.csv"
    elsewhere = dataclasses.replace(ENTRY, device="another processor")
    write_baseline(path, [ENTRY, elsewhere])
    assert len(read_baseline(path)) == 2
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(ResultsError, match=":4: the same ratio as in line 2"):
        read_baseline(path)


@pytest.mark.parametrize("first_missing", ["trained", "validation_size"])
def test_a_baseline_of_a_version_before_they_were_is_read(tmp_path, first_missing):
    write_baseline(tmp_path / "b.csv", [ENTRY])
    rows = list(csv.reader((tmp_path / "b.csv").open()))
    (tmp_path / "b.csv").write_text(
        "".join(",".join(row[: COLUMNS.index(first_missing)]) + "\n" for row in rows)
    )
    assert read_baseline(tmp_path / "b.csv") == [ENTRY]


def test_an_older_one_is_read_and_what_it_does_not_say_does_not_differ(tmp_path):
    write_baseline(tmp_path / "b.csv", [ENTRY])
    rows = csv.DictReader((tmp_path / "b.csv").open())
    lines = [",".join(OLDER_COLUMNS), *(",".join(row[name] for name in OLDER_COLUMNS) for row in rows)]
    (tmp_path / "old.csv").write_text("\n".join(lines) + "\n")
    (then,) = read_baseline(tmp_path / "old.csv")
    now = dataclasses.replace(ENTRY, torch="2.15.1", cores="4", data="d", contract="c1")
    assert (then.torch, differing(then, now)) == ("2.15", [])
    assert "older fgbench" in another_contract(then, now)
    assert differing(then, dataclasses.replace(now, torch="2.16.0")) == [("torch", "2.15", "2.16")]
