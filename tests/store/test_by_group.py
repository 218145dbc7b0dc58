"""A group's lines of a growing table: those of the whole table, whatever is done to it between."""

from __future__ import annotations

import pandas as pd
import pytest

from fgbench.errors import ResultsError
from fgbench.store.by_group import LinesByGroup
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import headers
from tests.builders import run_folder, tiny_group

GROUPS = ("a", 'b,"c"', "mlp-d1")


def row(group: str, number: int) -> dict[str, object]:
    return {"job": f"{group}/backprop/{number}", "group": group, "method": "backprop", "seed": number}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return run_folder(tmp_path, (tiny_group(),))


def same(folder: RunFolder) -> None:
    whole = folder.read("curves")
    for group in (*GROUPS, "none"):
        expected = whole[whole["group"] == group].reset_index(drop=True)
        pd.testing.assert_frame_equal(folder.read_group("curves", group), expected)


def test_a_group_s_rows_are_those_of_the_whole_table(folder):
    same(folder)
    for number in range(3):
        folder.append("curves", *(row(group, number) for group in GROUPS))
        same(folder)
    folder.replace_group("curves", "a", [row("a", 9), row("a", 8)])
    same(folder)
    assert list(folder.read_group("curves", "a")["seed"]) == [9, 8]
    folder.replace("curves", [row(GROUPS[1], 7)])
    same(folder)
    folder.append("curves", row("a", 5))
    same(folder)


def test_a_torn_last_line_is_left_out_until_it_is_whole(folder):
    folder.append("curves", row("a", 1))
    file = folder.path / "curves.csv"
    whole = file.read_bytes()
    line = whole.splitlines(keepends=True)[-1]
    file.write_bytes(whole + line[:9])
    same(folder)
    file.write_bytes(whole + line)
    same(folder)
    assert len(folder.read_group("curves", "a")) == 2


def test_another_program_s_new_table_is_seen(folder):
    folder.append("curves", row("a", 1), row(GROUPS[1], 2))
    same(folder)
    other = RunFolder.open(folder.path)
    other.replace("curves", [row("mlp-d1", 3), row("a", 4), row("a", 6)])
    same(folder)


def test_what_was_seen_is_not_read_again(folder):
    folder.append("curves", *(row("a", number) for number in range(50)))
    lines = LinesByGroup(folder.path / "curves.csv")
    assert len(lines.of("a")) == 51
    assert lines.places == {"a": [(len(lines.header) + 1, lines.end)]}, "neighbours are one place"


def test_damage_is_named_as_in_the_whole_table(folder):
    folder.append("curves", row("a", 1), row("a", 2))
    file = folder.path / "curves.csv"
    file.write_text(file.read_text().replace("a,backprop,2", "a,backprop,two"))
    with pytest.raises(ResultsError, match=r"curves\.csv:3: 'two' is not a value of seed"):
        folder.read_group("curves", "a")


def test_a_replaced_group_moves_to_the_end_and_nothing_is_read_again(folder, monkeypatch):
    for number in range(3):
        folder.append("curves", *(row(group, number) for group in GROUPS))
    same(folder)
    grown: list[bytes] = []
    monkeypatch.setattr(LinesByGroup, "_look_through", lambda _self, text: grown.append(text))
    folder.replace_group("curves", GROUPS[1], [row(GROUPS[1], 9)])
    same(folder)
    folder.replace_group("curves", "a", [])
    same(folder)
    assert list(folder.read("curves")["group"]) == ["mlp-d1"] * 3 + [GROUPS[1]]
    assert set(grown) == {b""}


def test_a_torn_last_line_is_gone_after_a_replacement(folder):
    folder.append("curves", row("a", 1), row("mlp-d1", 2))
    file = folder.path / "curves.csv"
    file.write_bytes(file.read_bytes() + b"mlp-d1/torn")
    folder.replace_group("curves", "a", [row("a", 3)])
    same(folder)
    assert list(folder.read("curves")["seed"]) == [2, 3]


def test_a_table_of_an_older_version_gets_the_columns_of_this_one(folder):
    older = headers("jobs")[1]
    lines = [["a"] + [""] * (len(older) - 1), ["b"] + [""] * (len(older) - 1)]
    for line, group in zip(lines, "ab", strict=True):
        line[older.index("group")] = group
    text = "\n".join(",".join(line) for line in [older, *lines]) + "\n"
    (folder.path / "jobs.csv").write_text(text)
    folder.replace_group("jobs", "a", [{"job": "new", "group": "a", "node": "n1"}])
    assert (folder.path / "jobs.csv").read_text().splitlines()[0].split(",") == headers("jobs")[0]
    assert list(folder.read("jobs")["job"]) == ["b", "new"]
