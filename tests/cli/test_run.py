"""`fgbench run`: what it says of options before anything is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_commands import fgbench_says

SMALL = ("--depth", "1", "--width", "4", "--device", "cpu", "--threads", "1")


def refused(*options: str) -> str:
    """The one line that `fgbench run` says of them."""
    done = fgbench_says("run", *options)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--slurm", "partition=gpu"), "--slurm and --slurm-file need --on slurm"),
        (("--on", "local", "--slurm", "partition=gpu"), "--slurm and --slurm-file need --on slurm"),
        (("--on", "slurm", "--slurm", "partition"), "--slurm partition: must be key=value"),
        (("--on", "slurm", "--slurm-file", "absent.toml"), "--slurm-file absent.toml: cannot be read"),
    ],
)
def test_a_dry_run_refuses_what_a_run_on_a_cluster_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], line: str
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert line in refused("--dry-run", *SMALL, *options)
