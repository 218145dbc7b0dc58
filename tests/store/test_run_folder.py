"""Run folders: made once, never mixed up, and refused with one line where they are damaged."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest

from fgbench.errors import ResultsError, UsageError
from fgbench.store import run_folder as module
from fgbench.store.run_folder import RunFolder, find_runs, read_runs
from fgbench.store.schema import OLDEST_READABLE, SCHEMA_VERSION
from tests.builders import run_folder


def rewritten(folder: RunFolder, **changes: object) -> None:
    facts = {**folder.facts(), **changes}
    (folder.path / "run.json").write_text(json.dumps(facts))


def test_a_new_run_is_running_and_knows_its_schema(tmp_path):
    facts = run_folder(tmp_path).facts()
    assert (facts["status"], facts["schema_version"]) == ("running", SCHEMA_VERSION)
    assert facts["command"] == "fgbench run"


def test_finishing_sets_status_and_end_and_keeps_the_rest(tmp_path):
    folder = run_folder(tmp_path)
    before = folder.facts()
    folder.finish("done")
    after = folder.facts()
    assert after["ended"] >= after["started"]
    assert after == {**before, "status": "done", "ended": after["ended"]}


def test_folders_of_the_same_second_have_names_of_their_own(tmp_path, monkeypatch):
    from datetime import UTC, datetime

    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    monkeypatch.setattr(module, "datetime", Stopped)
    names = [run_folder(tmp_path).path.name for _ in range(3)]
    assert names == ["20260102-030405-test", "20260102-030405-test-2", "20260102-030405-test-3"]


def test_a_folder_that_cannot_be_made_is_one_line_that_names_out(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"--out .*: cannot be written") as caught:
            run_folder(root)
        assert "\n" not in str(caught.value)


class TestOpening:
    def test_without_run_json(self, tmp_path):
        with pytest.raises(ResultsError, match=r"run\.json: cannot be read"):
            RunFolder.open(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", '{"schema_version": 1', "\udcff"])
    def test_damaged_run_json(self, tmp_path, text):
        (tmp_path / "run.json").write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(ResultsError, match=r"run\.json: this is not JSON") as caught:
            RunFolder.open(tmp_path)
        assert "\n" not in str(caught.value)

    def test_json_that_is_no_object(self, tmp_path):
        (tmp_path / "run.json").write_text("[1]")
        with pytest.raises(ResultsError, match="must hold a JSON object"):
            RunFolder.open(tmp_path)

    @pytest.mark.parametrize("damage", [{"groups": [1]}, {"groups": {}}, {"groups": [{}]}, {"config": []}])
    def test_groups_or_a_config_that_are_none(self, tmp_path, damage):
        folder = run_folder(tmp_path)
        rewritten(folder, **damage)
        with pytest.raises(ResultsError, match="its groups or its config are damaged"):
            RunFolder.open(folder.path)

    @pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, None, "1"])
    def test_another_schema_version(self, tmp_path, version):
        folder = run_folder(tmp_path)
        rewritten(folder, schema_version=version)
        with pytest.raises(
            ResultsError, match=f"schema version {version}, this fgbench .* reads {OLDEST_READABLE} to"
        ):
            RunFolder.open(folder.path)


class TestReplacingAGroup:
    def rows(self, group: str, *bytes_: int) -> list[dict[str, object]]:
        return [{"group": group, "method": "m", "kind": "k", "bytes": b} for b in bytes_]

    def test_others_stay(self, tmp_path):
        folder = run_folder(tmp_path)
        folder.replace_group("memory", "a", self.rows("a", 1, 2))
        folder.replace_group("memory", "b", self.rows("b", 3))
        folder.replace_group("memory", "a", self.rows("a", 4))
        found = folder.read("memory")
        assert sorted(zip(found["group"], found["bytes"], strict=True)) == [("a", 4), ("b", 3)]

    def test_what_others_miss_stays_empty(self, tmp_path):
        folder = run_folder(tmp_path)
        row = {"group": "a", "method": "m", "role": "method", "r": 2.0}
        folder.replace_group("ratios", "a", [row])
        before = (folder.path / "ratios.csv").read_text()
        folder.replace_group("ratios", "b", [])
        assert (folder.path / "ratios.csv").read_text() == before
        assert "nan" not in before

    def test_nothing_for_nothing_writes_no_file(self, tmp_path):
        folder = run_folder(tmp_path)
        folder.replace_group("memory", "a", [])
        assert not (folder.path / "memory.csv").exists()


def test_a_table_that_is_none_is_named_with_those_that_are(tmp_path):
    folder = run_folder(tmp_path)
    with pytest.raises(ResultsError, match="no table 'colours': choose from jobs, samples"):
        folder.read("colours")
    with pytest.raises(ResultsError):
        folder.append("../jobs", {})


class TestFindingRuns:
    def test_one_run_or_all_below_oldest_first(self, tmp_path):
        made = [run_folder(tmp_path / "deep" / "er") for _ in range(3)]
        assert find_runs(made[1].path) == [made[1]]
        assert find_runs(tmp_path) == sorted(made, key=lambda run: run.path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(ResultsError, match="there is no such folder"):
            find_runs(tmp_path / "nowhere")

    def test_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(ResultsError, match="there is no such folder"):
            find_runs(tmp_path / "file")

    def test_no_run_in_it(self, tmp_path):
        with pytest.raises(ResultsError, match=r"holds no run \(no run\.json\)"):
            find_runs(tmp_path)

    def test_a_run_of_another_schema_among_them(self, tmp_path):
        run_folder(tmp_path)
        rewritten(run_folder(tmp_path), schema_version=99)
        with pytest.raises(ResultsError, match="schema version 99"):
            find_runs(tmp_path)


FIGHT = """
import os, sys, time
from pathlib import Path
from fgbench.errors import UsageError
from fgbench.store.run_folder import RunFolder

path, wins = Path(sys.argv[1]), int(sys.argv[2])
inside, won = path / "inside", 0
while not (path / "go").exists():
    time.sleep(0.001)
while won < wins:
    try:
        with RunFolder(path).held():
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # another one inside: FileExistsError
            time.sleep(0.0002)
            inside.unlink()
            won += 1
    except UsageError:
        pass
"""


def test_of_those_that_fight_for_a_folder_one_holds_it_at_any_time(tmp_path):
    start = [sys.executable, "-c", FIGHT, str(tmp_path), "20"]
    fighters = [subprocess.Popen(start, stdout=-1, stderr=-1, text=True) for _ in range(6)]
    (tmp_path / "go").touch()
    ended = [(fighter.communicate(timeout=240)[1], fighter.returncode) for fighter in fighters]
    assert all(code == 0 for _, code in ended), [errors for errors, _ in ended]


def test_whoever_does_not_hold_a_run_changes_nothing_in_it(tmp_path, monkeypatch):
    from fgbench.cli import stored
    from fgbench.cli.run import _resume
    from fgbench.plan import Plan
    from tests.builders import config

    folder = run_folder(tmp_path)
    with folder.held():
        folder.begin()
        before = folder.facts()
        monkeypatch.setattr(stored, "begun", lambda path: (folder, config()))
        monkeypatch.setattr(stored, "resumed", lambda *_arguments: (Plan(config(), ()), {}, None))
        monkeypatch.setattr("fgbench.running.duration.expected_seconds", lambda plan: 1.0)
        with pytest.raises(UsageError, match="another fgbench is writing"):
            _resume(folder.path, None, (), as_json=False, dry_run=False)
        assert folder.facts() == before


def test_a_folder_that_cannot_be_written_is_not_held_and_that_is_one_line(tmp_path):
    folder = run_folder(tmp_path)
    (folder.path / ".lock").mkdir()  # root may write into any folder, and over none
    with pytest.raises(UsageError, match=r"cannot be written \(Is a directory\)") as caught, folder.held():
        pytest.fail("it is held")
    assert str(folder.path) in str(caught.value)


def test_that_a_run_goes_on_is_noted_each_time(tmp_path):
    folder = run_folder(tmp_path)
    folder.begin()
    assert "resumed" not in folder.facts()
    folder.finish("interrupted")
    for times in (1, 2):
        folder.begin()
        assert folder.facts()["status"] == "running"
        assert len(folder.facts()["resumed"]) == times


def test_several_runs_read_as_one_table_with_the_runs_name_first(tmp_path):
    runs = [run_folder(tmp_path) for _ in range(2)]
    for run in runs:
        run.append("memory", {"group": "g", "method": run.path.name, "kind": "k", "bytes": 1})
    found = read_runs(runs, "memory")
    assert next(iter(found.columns)) == "run"
    assert list(found["run"]) == list(found["method"]) == [run.path.name for run in runs]
    assert isinstance(read_runs(runs, "curves"), pd.DataFrame)


def test_a_disk_that_is_full_is_one_line_and_what_was_stored_stays(tmp_path, monkeypatch):
    folder = run_folder(tmp_path)
    folder.append("memory", {"group": "g", "method": "m", "kind": "peak_allocated", "bytes": 1})

    def full(*_args, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fgbench.store.run_folder.append_rows", full)
    monkeypatch.setattr("fgbench.store.run_folder.replace_text", full)
    with pytest.raises(ResultsError, match="No space left on device"):
        folder.append("memory", {"group": "g", "method": "m", "kind": "peak_allocated", "bytes": 2})
    with pytest.raises(ResultsError, match="No space left on device"):
        folder.finish("done")
    assert list(folder.read("memory")["bytes"]) == [1]
    assert folder.facts()["status"] == "running"
