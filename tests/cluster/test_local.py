"""The path of a cluster on this machine: submitit's processes, one after the other, with scripted workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fgbench.cluster import run as cluster_run
from fgbench.cluster.engines import ENDED, RUNNING, Local
from fgbench.cluster.ledger import Ledger
from fgbench.cluster.run import run_on, units_of
from fgbench.cluster.status import clustered, status_of
from fgbench.errors import ResultsError, UsageError
from fgbench.plan import Plan
from fgbench.running import client
from fgbench.store.run_folder import find_runs
from tests.builders import Recorder, config, run_folder, tiny_group
from tests.cli.test_commands import fgbench_says
from tests.cluster.slurm import wait_until
from tests.cluster.test_run import contracts, on_one_machine, rows
from tests.cluster.warm import warm_workers
from tests.scripted import Script

ROOT = Path(__file__).parents[2]
PLAN = Plan(config(methods=("forward", "spsa"), time=False, seeds=2), (tiny_group(),))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "WORKER", "tests.cluster.worker")
    monkeypatch.setattr(cluster_run, "PAUSE", 0.05)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cluster = {"on": "local", "name": "here", "options": {}, "setup": [], "units": units_of(PLAN)}
    return run_folder(tmp_path, PLAN.groups, config={"methods": list(PLAN.config.methods)}, cluster=cluster)


def test_leaves_the_tables_of_a_run_without_tasks(folder, tmp_path, monkeypatch):
    here = on_one_machine(tmp_path, Script(), monkeypatch, PLAN)
    seen: Counter[int] = Counter()

    class Watched(Recorder):
        def progress(self, share: float, text: str) -> None:
            status = status_of(folder.path, folder.facts())
            seen[status.units["running"]] += 1
            assert sum(status.units.values()) == 4

    run_on(Local(folder.path), PLAN, folder, contracts(PLAN), Watched())
    assert rows(folder, "node") == rows(here, "node")
    assert max(seen) == 1, "one at a time: two would measure each other"
    assert not list(folder.path.glob("cluster/jobs/*")), "what submitit kept is gone"
    said = fgbench_says("status", str(folder.path.parent))
    assert (said.returncode, said.stdout) == (0, f"{folder.path}: done; 4 done\n")


def test_a_process_of_another_runner_is_known_by_its_run(tmp_path):
    """A number of a process may have gone to a task of another run since, which is not ours to end."""
    code = "import time; time.sleep(60)"
    tasks = [
        subprocess.Popen([sys.executable, "-c", code, "submitit.local._local", str(tmp_path / run / "jobs")])
        for run in ("own", "other")
    ]
    engine, jobs = Local(tmp_path / "own"), [str(task.pid) for task in tasks]
    try:
        for task in tasks:
            wait_until(Path(f"/proc/{task.pid}/cmdline").read_bytes, "a process to be its own program")
        seen = engine.seen([*jobs, str(os.getpid())])
        assert seen is not None
        assert [own.state for own in seen.values()] == [RUNNING, ENDED, ENDED]
        engine.cancel([*jobs, str(os.getpid())])
        assert tasks[0].wait(10) == -15
        assert tasks[1].poll() is None
    finally:
        for task in tasks:
            task.kill()
            task.wait()


def test_from_the_command_line_a_node_makes_the_plan_and_real_workers_train(tmp_path, monkeypatch):
    from tests.builders import tiny_matched

    tiny_matched()  # what workers are forked from has imported what they need
    monkeypatch.setattr(client, "WORKER", "tests.cluster.warm")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    asked = [
        *("--arch", "mlp", "--depth", "1", "--width", "8", "--batch", "8", "--device", "cpu"),
        *("--dataset", "synthetic:shape=1x6x6,classes=4,samples=64", "--validation-size", "16"),
        *("--method", "forward", "--train-only", "--lr", "0.01", "--seeds", "1", "--threads", "1"),
        *("--max-iterations", "12", "--evaluate-every", "3", "--max-train-seconds", "60"),
    ]
    out, wrong_out = str(tmp_path / "out"), str(tmp_path / "wrong")
    with warm_workers(tmp_path):
        said = fgbench_says("run", "--on", "local", "--out", out, *asked)
        wrong = fgbench_says("run", "--on", "local", "--out", wrong_out, *asked, "--batch", "999")
    assert said.returncode == 0, said.stderr
    (run,) = find_runs(tmp_path / "out")
    facts = run.facts()
    assert (facts["status"], facts["cluster"]["on"]) == ("done", "local")
    units = {name: count for name, (count, _) in facts["cluster"]["units"].items()}
    assert units == {"tune": 1, "train": 1, "quality": 1}
    assert facts["groups"][0]["contract"] in set(run.read("jobs")["contract"])
    assert len(run.read("curves")) >= 3
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == [run.path.name], "no survey is left"
    line = "fgbench: --batch 999: synthetic:shape=1x6x6,classes=4,samples=64 has only 64 training samples."
    assert (wrong.returncode, wrong.stderr.strip()) == (2, line)


class TestStatus:
    def test_names_what_failed_and_why_and_the_time_left(self, folder):
        ledger = Ledger(folder.path)
        ledger.begin()
        units = {f"{PLAN.groups[0].name}.train.{seed}": 60.0 for seed in (1, 2)}
        ledger.tell("submit", wave="wave-1", units=units)
        ledger.tell("submitted", wave="wave-1", jobs=["1", "2"])
        ledger.tell("ended", units=[next(iter(units))], state="failed", why="it failed 2 times, on n1: boom")
        with ledger.folder.joinpath("ledger.jsonl").open("a") as file:
            file.write('{"what": "ended", "uni')  # torn
        said = fgbench_says("status", str(folder.path))
        assert said.returncode == 0
        assert f"{next(iter(units))}: it failed 2 times, on n1: boom" in said.stdout
        assert "1 failed" in said.stdout
        assert "1 ended" in said.stdout, "its process is gone, and nobody has looked for what it left"
        ledger.tell("ended", units=list(units), state="done")
        assert ledger.standing().count("done") == 2, "a line after a torn one is whole"

    def test_of_a_run_whose_runner_was_killed_says_so_and_is_not_watched_for_ever(self, folder, monkeypatch):
        def again(_seconds: float) -> None:
            raise AssertionError("it is watched on")

        monkeypatch.setattr("time.sleep", again)
        ledger = Ledger(folder.path)
        ledger.begin()
        said = fgbench_says("status", "--watch", str(folder.path))
        assert said.returncode == 0, said.stderr
        assert said.stdout.startswith(f"{folder.path}: killed; ")
        assert f"fgbench run --resume {folder.path}" in said.stdout
        with folder.held():
            assert status_of(folder.path, folder.facts()).state == "running"
        facts = folder.facts()
        folder.finish("done")
        assert status_of(folder.path, facts).state == "running", "it ended after the facts were read"
        folder.begin()
        ledger.tell("begin", host="another")
        assert status_of(folder.path, folder.facts()).state == "running", "its locks may not be seen here"

    def test_of_a_run_without_tasks_is_one_line(self, tmp_path):
        plain = run_folder(tmp_path, PLAN.groups)
        with pytest.raises(UsageError, match="was not made with --on"):
            clustered(plain.path)
        with pytest.raises(ResultsError, match="holds no run"):
            clustered(tmp_path / "none")


def test_options_of_slurm_without_it_are_one_line(tmp_path):
    said = fgbench_says("run", "--slurm", "partition=gpu", "--out", str(tmp_path))
    assert (said.returncode, said.stderr) == (
        2,
        "fgbench: --slurm and --slurm-file need --on slurm: give that too.\n",
    )


def test_without_submitit_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    said = fgbench_says("run", "--on", "local", "--out", str(tmp_path))
    assert said.returncode == 2
    assert said.stderr.strip().endswith("not installed: pip install 'fgbench[slurm]'.")
