"""What is stored of an experiment on fgbench itself."""

from __future__ import annotations

import json
import sys

import pytest

from fgbench.errors import UsageError
from fgbench.store.experiment import command, store_experiment


def test_the_command_names_no_folder_of_the_machine_it_ran_on(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/someone/fgbench/experiments/overhead.py", "--out", "a folder"])
    assert command() == "python -m fgbench.experiments.overhead --out 'a folder'"


def test_rows_and_facts_are_two_files(tmp_path):
    store_experiment(tmp_path / "new", "one", [{"a": 1, "b": None}, {"a": 2, "b": "x, y"}], {"found": 3})
    assert (tmp_path / "new" / "one.csv").read_text() == 'a,b\n1,\n2,"x, y"\n'
    assert json.loads((tmp_path / "new" / "one.json").read_text()) == {"found": 3}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out .*file: cannot be written"):
        store_experiment(tmp_path / "file", "one", [{"a": 1}], {})
