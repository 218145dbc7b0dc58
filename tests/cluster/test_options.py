"""What a user says of the cluster: the last word, and a line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgbench.cli.cluster import cluster_resumed
from fgbench.cluster.engines import Slurm, Wave
from fgbench.cluster.options import slurm_options
from fgbench.errors import UsageError


@pytest.fixture(autouse=True)
def no_defaults(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "fgbench"
    folder.mkdir(parents=True)
    return folder / "slurm.toml"


def test_the_command_line_has_the_last_word_over_the_file_and_that_over_the_defaults(no_defaults, tmp_path):
    no_defaults.write_text('partition = "a"\naccount = "mine"\ntime = 5\n')
    file = tmp_path / "cluster.toml"
    file.write_text('partition = "b"\ncpus_per_gpu = 4\nsetup = ["module load python"]\n')
    found, setup = slurm_options(file, ["time=60", "gres=gpu:1"])
    assert found == {"partition": "b", "account": "mine", "time": "60", "cpus-per-gpu": 4, "gres": "gpu:1"}
    assert setup == ["module load python"]
    assert slurm_options(None, []) == ({"partition": "a", "account": "mine", "time": 5}, [])


def test_a_run_that_goes_on_keeps_its_options_but_those_that_are_given(no_defaults):
    no_defaults.write_text('partition = "other"\n')
    begun = {"on": "slurm", "options": {"partition": "a", "time": "5"}, "setup": [], "name": "fgbench-1"}
    assert cluster_resumed(begun, ["time=60"]) == {**begun, "options": {"partition": "a", "time": "60"}}
    assert cluster_resumed(begun, []) == begun
    with pytest.raises(UsageError, match="must be key=value"):
        cluster_resumed(begun, ["time"])
    for other in (None, {"on": "local", "options": {}}):
        with pytest.raises(UsageError, match="not begun with --on slurm"):
            cluster_resumed(other, ["time=60"])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["partition"], "--slurm partition: must be key=value"),
        (["partition="], "must be key=value"),
        (["array=0-9"], "--slurm array: fgbench sets this option itself: units are its tasks"),
        (["job_name=x"], "--slurm job-name: fgbench sets this option itself"),
        (["Bad Key=1"], "is not the name of an option of sbatch"),
    ],
)
def test_what_is_no_option_is_one_line(given, line):
    with pytest.raises(UsageError, match=line):
        slurm_options(None, given)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("partition =", "is not TOML"),
        ('[timing]\npartition = "a"', "timing must be one value"),
        ('setup = "module load"', "must be a list of lines"),
        ('array = "0-9"', r"--slurm-file .*cluster.toml: array: fgbench sets this option itself"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(tmp_path, text, line):
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=line):
        slurm_options(file, [])


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        slurm_options(tmp_path / "none.toml", [])


@pytest.mark.parametrize(
    ("options", "shares", "asked"),
    [
        ({}, False, {"exclusive": True}),
        ({}, True, {"cpus-per-task": 3}),
        ({"gres": "gpu:1"}, False, {}),
        ({"gpus-per-task": "1"}, False, {}),
    ],
)
def test_what_is_timed_has_its_node_or_a_gpu_to_itself(options, shares, asked, monkeypatch):
    monkeypatch.setattr(Slurm, "__post_init__", lambda _self: None)
    wave = Wave("wave-1", Path("jobs"), 60.0, shares, 3)
    assert Slurm("name", options)._where(wave) == asked
