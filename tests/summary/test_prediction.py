"""Predictions from stored counts, and what a machine's rates may be."""

from __future__ import annotations

import math
import re

import pytest
from typer.testing import CliRunner

from fgbench.cli import app
from fgbench.errors import ResultsError, UsageError
from fgbench.measurement.prediction import Device
from fgbench.store.run_folder import RunFolder
from fgbench.summary.prediction import parse_device, predicted
from tests.builders import run_folder, tiny_group

GROUP = tiny_group()
RATES = "FLOPS=100,BYTES=10,LAUNCH=0.001"


@pytest.fixture
def run(tmp_path) -> RunFolder:
    folder = run_folder(tmp_path, [GROUP])
    for method, flops in (("base", 100), ("backprop", 300), ("forward", 600)):
        counts = {"flops": flops, "bytes": 1, "operations": 1, "product_bytes": 0, "other_bytes": 0}
        folder.append("cost", {"group": GROUP.name, "method": method, **counts, "random_numbers": 0})
    own = {"group": GROUP.name, "method": "forward", "role": "method", "reference": "backprop"}
    folder.append("ratios", {**own, "ratio": 1.5})
    return folder


def test_rates_are_read():
    assert parse_device("FLOPS=989e12,BYTES=3.35e12,LAUNCH=4e-6") == Device(989e12, 3.35e12, 4e-6)
    assert parse_device("LAUNCH=1, FLOPS=2,BYTES=3,RANDOM=4,QUEUED=0") == Device(2, 3, 1, 4, queued=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FLOPS=1,BYTES=1", "LAUNCH missing"),
        ("FLOPS=1,BYTES=1,LAUNCH=much", "LAUNCH must be a number, not 'much'"),
        ("FLOPS=0,BYTES=1,LAUNCH=1", "FLOPS must be a positive number, not 0"),
        ("FLOPS=nan,BYTES=1,LAUNCH=1", "FLOPS must be a positive number"),
        ("FLOPS=1,FLOPS=1,BYTES=1,LAUNCH=1", "FLOPS is given twice"),
        ("SPEED=1", "'SPEED=1' is not a rate of a machine"),
        ("FLOPS", "'FLOPS' is not a rate of a machine"),
        ("FLOPS=1,BYTES=1,LAUNCH=1,QUEUED=2", "QUEUED must be 0 or 1, not 2"),
    ],
)
def test_rates_that_are_none_get_one_line_that_says_what_would_be_right(text, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_device(text)


def test_ratios_are_those_of_the_predicted_times_with_the_measured_one_beside_them(run):
    table = predicted(run, parse_device(RATES)).set_index("method")
    assert list(table.index) == ["backprop", "forward"]
    assert table["seconds"].tolist() == [3.0, 6.0]
    assert table["r"].tolist() == [3.0, 6.0]
    assert table["ratio"].tolist() == [1.0, 2.0]
    assert table.loc["forward", "measured"] == 1.5
    assert math.isnan(table.loc["backprop", "measured"])


def test_runs_without_counts_or_with_older_ones_are_refused(tmp_path):
    folder = run_folder(tmp_path, [GROUP])
    with pytest.raises(ResultsError, match="no counts of steps"):
        predicted(folder, parse_device(RATES))
    folder.append("cost", {"group": GROUP.name, "method": "base", "flops": 1, "bytes": 1, "operations": 1})
    with pytest.raises(ResultsError, match="older version"):
        predicted(folder, parse_device(RATES))


def test_the_command_marks_what_it_says_as_predicted_and_stores_nothing(run):
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    said = CliRunner().invoke(app, ["predict", str(run.path), "--device", RATES], env={"COLUMNS": "120"})
    assert said.exit_code == 0, said.output
    assert f"PREDICTED for {RATES}" in said.output
    assert "Nothing was measured on that machine." in said.output
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def test_runs_with_a_group_of_the_same_name_have_tables_of_their_own_and_no_word_is_broken(tmp_path):
    spec = "forward:tangents=16,structure=activity,combine=projection"
    for name in ("one", "two"):
        folder = run_folder(tmp_path / name, [GROUP])
        for method in ("base", "backprop", spec):
            counts = {"flops": 100, "bytes": 1, "operations": 1, "product_bytes": 0, "other_bytes": 0}
            folder.append("cost", {"group": GROUP.name, "method": method, **counts, "random_numbers": 0})
    said = CliRunner().invoke(app, ["predict", str(tmp_path), "--device", RATES], env={"COLUMNS": "80"})
    lines = said.output.splitlines()
    assert sum(line.startswith(f"{GROUP.name} of ") for line in lines) == 2, said.output
    assert sum(line.startswith("   structure=activity,") for line in lines) == 2, said.output
