"""Slurm's programs, played by scripts that fail: what fgbench says, and that it goes on where it can."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fgbench.cluster import engines, survey
from fgbench.cluster.engines import NoAnswerError, NoRoomError, Slurm, Wave
from fgbench.cluster.ledger import Ledger
from fgbench.cluster.node import NodeTask
from fgbench.errors import UsageError
from fgbench.store.run_folder import RunFolder
from tests.builders import Recorder, config, run_folder, tiny_group
from tests.cli.test_commands import fgbench_says

DOWN = "echo slurm_load_jobs error: Unable to contact slurm controller. >&2; exit 1"
CLUSTER = {"on": "slurm", "name": "a-run", "options": {}, "setup": [], "units": {"time": [3, 60.0]}}
Programs = Callable[..., None]


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Programs:
    """Puts scripts in place of Slurm's programs; one that is not given does nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(**scripts: str) -> None:
        for name in ("sbatch", "scancel", "scontrol", "squeue"):
            file = folder / name
            file.write_text(f"#!/bin/sh\n{scripts.get(name, 'exit 0')}\n")
            file.chmod(0o755)

    return put


def handed_out(root: Path) -> RunFolder:
    """A run of which one unit is under way."""
    folder = run_folder(root, [tiny_group()], cluster=CLUSTER)
    ledger = Ledger(folder.path)
    ledger.begin()
    ledger.tell("submit", wave="wave-1", units={"a.time.0": 60.0})
    ledger.tell("submitted", wave="wave-1", jobs=["5_0"])
    return folder


class TestTasksThatCannotBeEnded:
    def test_are_one_line_and_not_said_to_have_ended(self, programs, tmp_path):
        programs(scancel=DOWN)
        said = fgbench_says("cancel", str(handed_out(tmp_path).path))
        assert said.returncode == 2
        assert said.stdout == ""
        assert "Unable to contact slurm controller" in said.stderr
        assert "tasks may go on" in said.stderr
        assert "scancel --me --name=a-run" in said.stderr

    def test_do_not_hide_why_a_survey_ended(self, programs, tmp_path, monkeypatch):
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        programs(scancel=DOWN)
        monkeypatch.setattr(Slurm, "submit", lambda *_: ["5_0"])
        monkeypatch.setattr(survey, "_wait_for", interrupted)
        watcher = Recorder()
        with pytest.raises(KeyboardInterrupt):
            survey.survey(config(), CLUSTER, tmp_path / "out", watcher)
        assert any("scancel --me --name=a-run" in note for note in watcher.notes)
        assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("silent", [{"squeue": DOWN}, {"squeue": DOWN, "scontrol": DOWN}])
def test_status_tells_what_the_ledger_knows_while_slurm_is_down(programs, tmp_path, silent):
    folder = handed_out(tmp_path)
    programs(**silent)
    with folder.held():
        said = fgbench_says("status", str(folder.path))
    line = f"{folder.path}: running; 1 handed out (the scheduler does not answer), 2 to come"
    assert (said.returncode, said.stdout.splitlines()[0]) == (0, line)


def test_status_tells_why_tasks_wait_in_slurms_words(programs, tmp_path):
    folder = handed_out(tmp_path)
    programs(squeue="echo '5_0|PENDING||wave-1|QOSMaxJobsPerUserLimit'")
    said = fgbench_says("status", str(folder.path))
    assert said.stdout.splitlines()[1] == "queued for QOSMaxJobsPerUserLimit (1)"
    programs(squeue="echo '5_0|PENDING||wave-1|None'")
    assert "queued for" not in fgbench_says("status", str(folder.path)).stdout


def test_a_program_that_hangs_is_one_line(programs, monkeypatch):
    run = engines.subprocess.run
    monkeypatch.setattr(engines.subprocess, "run", lambda *a, **k: run(*a, **{**k, "timeout": 0.5}))
    programs(scontrol="echo retrying >&2; exec sleep 60")
    with pytest.raises(UsageError, match="Slurm does not answer"):
        Slurm("a-run")


def test_a_program_that_this_machine_cannot_start_now_is_no_answer(programs, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")  # too many processes

    programs()
    engine = Slurm("a-run")
    monkeypatch.setattr(engines.subprocess, "run", full)
    assert engine.seen([]) is None
    with pytest.raises(NoAnswerError, match="Resource temporarily unavailable"):
        Slurm("a-run")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", NoAnswerError),
        ("Batch job submission failed: Socket timed out on send/recv operation", NoAnswerError),
        ("Batch job submission failed: Job violates accounting/QOS policy (job submit limit)", NoRoomError),
        ("Batch job submission failed: Requested node configuration is not available", UsageError),
    ],
)
def test_why_sbatch_takes_no_tasks_is_told_apart(programs, tmp_path, said, kind):
    programs(sbatch=f"echo 'sbatch: error: {said}' >&2; exit 1")
    with pytest.raises(kind) as raised:
        Slurm("a-run").submit([NodeTask(tmp_path / "a.jsonl", ())], Wave("w", tmp_path, 1.0, False, 1))
    assert type(raised.value) is kind
    assert said in str(raised.value)


def test_a_job_whose_launch_failed_is_held_and_leaves_the_queue_alone(programs, tmp_path):
    told = tmp_path / "told"
    line = "5_{0}|PENDING|{1}|wave-1|{2}"
    lines = [line.format(0, "n1", "launch failed requeued held"), line.format(1, "", "Priority")]
    programs(squeue=f"printf '%s\\n' '{lines[0]}' '{lines[1]}'", scancel=f'echo "$@" >> {told}')
    engine = Slurm("a-run")
    seen = engine.seen(["5_0", "5_1"])
    assert seen is not None
    assert [seen[job].held for job in ("5_0", "5_1")] == [True, False]
    engine.drop("5_0")
    assert told.read_text() == "5_0\n"
