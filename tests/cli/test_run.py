"""`fgbench run`: what it says of options before anything is measured."""

from __future__ import annotations

import re
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


def planned(*options: str) -> str:
    """What a dry run says of them, after its table."""
    done = fgbench_says("run", "--dry-run", *SMALL, *options)
    assert done.returncode == 0, done.stderr
    return re.split(r"\n\s*\n", done.stdout.strip())[-1].replace("\n", " ")


def test_a_dry_run_counts_all_that_is_asked_for() -> None:
    quick = ("--quick", "--method", "forward", "--time-only")
    once, often = (planned(*quick, *more) for more in ((), ("--repeat", "30")))
    least = re.match(r"1 group × 1 method \(forward\): timing, about (\d+) s\. ", once)
    assert least, once
    whole = re.match(r"1 group × 1 method \(forward\) × 30 runs: timing, about (\d+) min\. ", often)
    assert whole, often
    assert float(whole[1]) == pytest.approx(30 * float(least[1]) / 60, abs=1)


@pytest.mark.parametrize("more", [SMALL, ("--resume", "results")])
def test_a_dry_run_has_no_result_to_print_as_json(more: tuple[str, ...]) -> None:
    assert "leave one of them out" in refused("--dry-run", "--json", *more)
