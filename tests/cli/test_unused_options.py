"""Options of a phase that is switched off: one line that says which to leave out, and none for the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgbench.cli.run_options import TRAINING
from fgbench.cli.unused_options import OF_TRAINING, check_used_by_check
from tests.cli.test_commands import fgbench_says
from tests.cli.test_run import SMALL, refused
from tests.regression.test_entries import timed


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--train-only", "--slowed", "10%"), "--slowed is about timing: leave --train-only out."),
        (("--train-only", "--precision", "0.5"), "--precision is about timing: leave --train-only out."),
        (("--train-only", "--isolated"), "--isolated is about timing: leave --train-only out."),
        (("--time-only", "--seeds", "3"), "--seeds is about training: leave --time-only out."),
        (("--time-only", "--lr", "0.1"), "--lr is about training: leave --time-only out."),
        (("--time-only", "--target-loss", "1"), "--target-loss is about training: leave --time-only out."),
    ],
)
def test_an_option_of_what_is_switched_off_is_refused(options: tuple[str, ...], line: str) -> None:
    assert refused("--dry-run", *SMALL, *options) == f"fgbench: {line}"


@pytest.mark.parametrize(
    "options",
    [
        ("--time-only", "--quick", "--lr", "search", "--target-loss", "50%,90%"),
        ("--time-only", "--optimizer", "adam", "--slowed", "10%"),
        ("--train-only", "--seeds", "1", "--slowed", "0", "--processes", "1"),
    ],
)
def test_defaults_and_what_is_used_are_taken(options: tuple[str, ...]) -> None:
    done = fgbench_says("run", "--dry-run", *SMALL, *options)
    assert done.returncode == 0, done.stderr


def test_what_the_run_that_like_names_left_out_is_not_asked_of_it(tmp_path: Path) -> None:
    run = timed(tmp_path / "run")
    facts = run.facts()
    facts["config"]["train"] = False
    run._write(facts)
    line = refused("--like", str(run.path), "--dry-run", "--seeds", "5")
    assert (
        "--seeds is about training: leave it out, as the run that --like names was made with --time" in line
    )
    again = fgbench_says("run", "--like", str(run.path), "--dry-run", *SMALL)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("results", "--device", "cuda"), "--device is for --run, which measures anew: leave it out."),
        (
            ("results", "--max-measure-seconds", "9"),
            "--max-measure-seconds is for --run, which",
        ),
        (("results", "--out", "now"), "--out is for --run and --self-test, which store what they find"),
        (("results", "--slowdown", "20%"), "--slowdown is for --self-test: leave it out."),
        (("--run", "--slowdown", "20%"), "--slowdown is for --self-test: leave it out."),
        (("--self-test", "--max-measure-seconds", "9"), "--max-measure-seconds is for --run"),
        (("--self-test", "--format", "json"), "--format is for verdicts, and --self-test gives none"),
        (("--self-test", "--run", "--inconclusive", "pass"), "--inconclusive is for verdicts"),
        (("--self-test", "--allow-mismatch"), "--allow-mismatch is for verdicts"),
    ],
)
def test_what_says_nothing_in_a_check_is_refused(options: tuple[str, ...], line: str) -> None:
    done = fgbench_says("check", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fgbench: {line}")


@pytest.mark.parametrize(
    "options",
    [
        {"results", "format", "inconclusive", "allow_mismatch", "baseline", "tolerance"},
        {"run", "out", "device", "max_measure_seconds", "format", "inconclusive"},
        {"self_test", "out", "device", "slowdown"},
        {"self_test", "run", "out", "device", "max_measure_seconds", "slowdown", "baseline", "tolerance"},
    ],
)
def test_what_is_used_by_a_check_is_taken(options: set[str]) -> None:
    check_used_by_check(options)


def test_every_option_of_the_panel_on_training_is_known() -> None:
    from typer.main import get_command

    from fgbench.cli import app

    run = get_command(app).commands["run"]  # type: ignore[attr-defined]
    panel = {p.name for p in run.params if getattr(p, "rich_help_panel", "") == TRAINING}
    assert panel - set(OF_TRAINING) <= {"start", "train", "train_only", "optimizer"}
