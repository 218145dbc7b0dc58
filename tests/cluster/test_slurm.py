"""Sweeps on a real Slurm of this machine: what nodes, users, disks and the controller do, nothing is lost.

Workers are scripted where it does not matter what they do, and real in one sweep from the command line.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pandas as pd
import pytest

from fgbench.cluster import engines
from fgbench.cluster import run as cluster_run
from fgbench.cluster.engines import Slurm, Wave
from fgbench.cluster.ledger import Ledger
from fgbench.cluster.node import NodeTask
from fgbench.cluster.run import run_on, units_of
from fgbench.cluster.status import status_of
from fgbench.plan import Plan
from fgbench.running import client, group_run
from fgbench.store.run_folder import RunFolder, find_runs
from tests.builders import Recorder, config, run_folder, tiny_group
from tests.cli.test_commands import fgbench_says
from tests.cluster.slurm import FAR, RealSlurm, wait_until, why_not
from tests.cluster.test_run import contracts, on_one_machine, rows
from tests.cluster.warm import warm_workers
from tests.scripted import Script

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.filterwarnings("ignore:Precision loss"),  # scripted seconds are all alike
]
ROOT = Path(__file__).parents[2]
PLAN = Plan(config(methods=("forward", "spsa"), time=False, seeds=4), (tiny_group(),))
TRAINED = [f"{PLAN.groups[0].name}.train.{seed}" for seed in range(1, 5)]
Hook = Callable[[], object]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[RealSlurm]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", "")
        patch.setenv("PYTHONPATH", str(ROOT))
        folder = tmp_path_factory.mktemp("slurm")
        patch.setenv("FGBENCH_TEST_HOLD", str(folder / "hold"))
        with RealSlurm(folder).up() as running:
            yield running


@pytest.fixture(autouse=True)
def scripted(monkeypatch) -> None:
    monkeypatch.setattr(client, "WORKER", "tests.cluster.worker")
    monkeypatch.setattr(cluster_run, "PAUSE", 0.1)
    monkeypatch.setattr(Slurm, "seconds_between", 0.5)
    monkeypatch.setattr(Slurm, "patience", 3.0)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> dict[str, object]:
    """The tables of a run on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        folder = on_one_machine(tmp_path_factory.mktemp("here"), Script(), patch, PLAN)
        return rows(folder, "node")


class Sweep:
    """A scripted sweep, and hands that do something to it once its training tasks run."""

    def __init__(
        self, slurm: RealSlurm, root: Path, monkeypatch: pytest.MonkeyPatch, setup: list[str]
    ) -> None:
        self.slurm, self.monkeypatch, self.watcher = slurm, monkeypatch, Recorder()
        self.cluster = {"on": "slurm", "name": f"tests-{root.name}", "options": {}, "setup": setup}
        self.folder = run_folder(
            root,
            PLAN.groups,
            config={"methods": list(PLAN.config.methods)},
            cluster={**self.cluster, "units": units_of(PLAN)},
        )
        self.ledger = Ledger(self.folder.path)
        self.hold = Path(os.environ["FGBENCH_TEST_HOLD"])

    def go(self, *hooks: Hook) -> RunFolder:
        """Run; each hook is called at a look at the folder, the next one once it has given something true."""
        left = list(hooks)

        def look(_seconds: float) -> None:
            if left and left[0]():
                left.pop(0)
            cluster_run.sleep_really(0.1)

        self.monkeypatch.setattr(cluster_run, "sleep_really", cluster_run.sleep, raising=False)
        self.monkeypatch.setattr(cluster_run, "sleep", look)
        try:
            run_on(self.engine(), PLAN, self.folder, contracts(PLAN), self.watcher)
        finally:
            self.monkeypatch.setattr(cluster_run, "sleep", cluster_run.sleep_really)
        assert not left, "every hook had its turn"
        return self.folder

    def engine(self) -> Slurm:
        return Slurm(self.cluster["name"], {}, self.cluster["setup"])

    def holding(self) -> None:
        """Training tasks wait for their release."""
        self.hold.write_text("train")

    def release(self) -> bool:
        self.hold.unlink(missing_ok=True)
        return True

    def running(self) -> dict[str, str]:
        """The nodes of training tasks that run, by job, once all of them do."""
        if len(self.ledger.standing().units) < 1 + len(TRAINED):
            return {}
        jobs = {job: node for job, (state, node) in self.slurm.jobs().items() if state == "RUNNING"}
        return jobs if len(jobs) == len(TRAINED) else {}

    def status(self) -> dict[str, int]:
        return status_of(self.folder.path, self.folder.facts()).units


@pytest.fixture
def sweep(slurm, tmp_path, monkeypatch) -> Iterator[Callable[..., Sweep]]:
    made: list[Sweep] = []

    def make(setup: list[str] | None = None) -> Sweep:
        made.append(Sweep(slurm, tmp_path, monkeypatch, setup or []))
        return made[-1]

    yield make
    for one in made:
        one.release()
        slurm.says("scancel", f"--name={one.cluster['name']}")


def test_a_node_that_goes_down_costs_nothing_that_was_finished(sweep, slurm, here):
    own, lost = sweep(), []

    def down() -> bool:
        if not (jobs := own.running()) or own.status()["running"] < len(TRAINED):
            return False  # on a busy machine a task says that it runs some time after it does
        lost.append(jobs[max(jobs)])
        slurm.set_node(lost[0], "DOWN")
        return own.release()

    own.holding()
    try:
        folder = own.go(down)
    finally:
        slurm.set_node(lost[0], "RESUME")
    assert folder.facts()["status"] == "done"
    assert rows(folder, "node") == here
    trained = folder.read("jobs").query("phase == 'train'")
    assert lost[0] not in set(trained["node"]), "held tasks were done elsewhere"
    assert own.status() == {**dict.fromkeys(own.status(), 0), "done": 2 + len(TRAINED)}


def test_half_of_an_array_that_is_cancelled_is_done_by_a_resume(sweep, slurm, here):
    own = sweep()

    gone: list[str] = []

    def scancel() -> bool:
        gone.extend(sorted(own.running())[:2])
        return bool(gone) and not slurm.says("scancel", *gone)

    def ended() -> bool:
        return not set(gone) & slurm.jobs().keys() and own.release()

    own.holding()
    folder = own.go(scancel, ended)
    assert folder.facts()["status"] == "interrupted"
    assert own.status()["cancelled"] == 2
    kept = folder.read("curves")
    assert kept["seed"].nunique() == 2
    assert own.go().facts()["status"] == "done"
    assert rows(folder, "node") == here
    waves = [line["units"] for line in own.ledger._lines() if line["what"] == "submit"]
    assert [len(wave) for wave in waves[-2:]] == [2, 1], "a resume hands out what is missing alone"


def test_a_controller_that_is_restarted_is_waited_for(sweep, slurm, here, monkeypatch):
    own, silent, seen = sweep(), [], Slurm.seen

    def asked(engine: Slurm, jobs: list[str]) -> object:
        found = seen(engine, jobs)
        silent.append(found is None)
        return found

    def stop() -> bool:
        if not own.running():
            return False
        slurm.stop_controller()
        return own.release()

    def start() -> bool:
        if not any(silent):
            return False
        slurm.start_controller()
        return True

    own.holding()
    monkeypatch.setattr(Slurm, "seen", asked)
    folder = own.go(stop, start)
    wait_until(slurm._all_idle, "nodes to be back")
    assert folder.facts()["status"] == "done"
    assert rows(folder, "node") == here


def test_a_disk_that_is_full_is_a_failure_with_its_reason_and_a_resume_completes_it(sweep, here):
    own = sweep(["ulimit -f 1"])  # KiB that a file may have: the events of a unit take more
    folder = own.go()
    jobs = folder.read("jobs").query("phase == 'train'")
    assert set(jobs["status"]) == {"interrupted"}
    assert jobs["detail"].str.contains("failed 2 times").all()
    assert jobs["detail"].str.contains("FAILED").all()
    assert not list(own.ledger.units.glob("*.jsonl")), "no half of a unit stands for a whole one"
    own.cluster["setup"] = []
    assert own.go().facts()["status"] == "done"
    assert rows(folder, "node") == here


def test_a_runner_that_is_killed_leaves_its_tasks_to_the_next(sweep, here):
    own = sweep()
    own.holding()
    first = multiprocessing.get_context("fork").Process(target=own.go)
    first.start()
    wait_until(own.running, "training tasks to run")
    first.kill()
    first.join()
    own.release()
    wait_until(
        lambda: len(list(own.ledger.units.glob("*.jsonl"))) == len(TRAINED), "tasks to end by themselves"
    )
    before = own.ledger._file.read_text().count('"submit"')
    folder = own.go()
    submitted = own.ledger._file.read_text().count('"submit"')
    assert submitted == before + 1, "nothing is handed out twice: what comes after training alone is new"
    assert folder.facts()["status"] == "done"
    assert rows(folder, "node") == here


def test_fgbench_cancel_ends_tasks_and_runner_and_a_resume_goes_on(sweep, slurm, here):
    own, said = sweep(), []
    own.holding()
    with pytest.raises(KeyboardInterrupt, match="by fgbench cancel"):
        own.go(lambda: own.running() and said.append(fgbench_says("cancel", str(own.folder.path))))
    assert said[0].stdout.startswith(f"{own.folder.path}: {len(TRAINED)} tasks were ended; go on with: ")
    wait_until(lambda: not slurm.jobs(), "tasks to end")
    own.release()
    assert own.go().facts()["status"] == "done"
    assert rows(own.folder, "node") == here


def test_what_is_timed_has_a_node_to_itself_and_training_has_not(slurm, tmp_path):
    engine = Slurm(f"tests-{tmp_path.name}", {"hold": True})
    try:
        for name, shares in (("timed", False), ("trained", True)):
            engine.submit([NodeTask(tmp_path / name, ())], Wave(name, tmp_path / name, 1.0, shares, 1))
        said = slurm.says("squeue", "-h", "-o", "%k %h", f"--name={engine.name}")
        assert dict(line.split() for line in said.splitlines()) == {"timed": "NO", "trained": "OK"}
    finally:
        engine.cancel([])


class TestBadInput:
    TINY = ("--dataset", "synthetic:shape=1x6x6,classes=4,samples=64", "--width", "16", "--threads", "1")

    def says(self, *more: str) -> str:
        said = fgbench_says("run", "--on", "slurm", *self.TINY, *more)
        assert said.returncode == 2
        assert said.stdout == ""
        assert len(said.stderr.splitlines()) == 1, said.stderr
        return said.stderr

    def test_a_partition_that_is_not_there(self, slurm, tmp_path):
        assert "nvalid partition" in self.says("--slurm", "partition=none", "--out", str(tmp_path))
        assert not list(tmp_path.iterdir()), "nothing is left"

    def test_an_option_that_sbatch_does_not_have(self, slurm, tmp_path):
        assert "sbatch does not take" in self.says("--slurm", "colour=blue", "--out", str(tmp_path))

    def test_a_folder_that_nodes_do_not_share(self, slurm):
        line = self.says("--slurm", f"partition={FAR}", "--out", str(slurm.hidden / "results"))
        assert f"--out {slurm.hidden / 'results'}" in line
        assert "do not share this folder" in line

    def test_no_slurm(self, slurm, tmp_path, monkeypatch):
        monkeypatch.setattr(engines.shutil, "which", lambda _name: None)
        assert "no sbatch on this machine" in self.says("--out", str(tmp_path))


GRID = [
    *("--arch", "mlp", "--width", "8", "--batch", "8", "--device", "cpu", "--threads", "1"),
    *("--dataset", "synthetic:shape=1x6x6,classes=4,samples=64", "--validation-size", "16"),
    *("--method", "forward", "--method", "spsa", "--train-only", "--lr", "0.01", "--seeds", "1"),
    *("--max-iterations", "12", "--evaluate-every", "3", "--max-train-seconds", "60"),
    *(part for depth in range(1, 5) for part in ("--depth", str(depth))),
]


def test_a_grid_of_four_groups_has_the_curves_of_a_run_on_one_machine(slurm, tmp_path, monkeypatch):
    # First here, in this process: a worker more would cost its start, and change nothing.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_run, "work", in_this_process)
        assert fgbench_says("run", "--out", str(tmp_path / "here"), *GRID).returncode == 0
    monkeypatch.setattr(client, "WORKER", "tests.cluster.warm")
    with chdir(tmp_path), warm_workers(slurm.folder):
        said = fgbench_says("run", "--on", "slurm", "--out", "there", *GRID)
        assert said.returncode == 0, said.stderr
        (there,) = find_runs(tmp_path / "there")
        told = Ledger(there.path)._file.read_text()
        again = fgbench_says("run", "--resume", str(there.path), "--slurm", "time=30")
    assert again.returncode == 0
    assert again.stdout.splitlines()[:-1] == said.stdout.splitlines()[:-1], "all but where it is"
    assert Ledger(there.path)._file.read_text().count("submit") == told.count("submit")
    assert there.facts()["cluster"]["options"] == {"time": "30"}, "later tasks may take longer"
    (there,), (here,) = find_runs(tmp_path / "there"), find_runs(tmp_path / "here")
    columns = ["job", "iteration", "train_loss", "validation_loss", "validation_accuracy"]
    curves = [sorted_rows(run, "curves", columns) for run in (there, here)]
    assert len(curves[0]) > 4 * 2 * 4
    assert curves[0].equals(curves[1]), "bit for bit"
    proofs = ["job", "weights_hash", "batches_hash", "parameters", "contract", "status", "cpu"]
    assert sorted_rows(there, "jobs", proofs).equals(sorted_rows(here, "jobs", proofs))
    assert set(there.read("jobs")["node"]) <= {"n1", "n2", "n3"}
    assert len(set(there.read("jobs")["node"])) > 1


def sorted_rows(run: RunFolder, table: str, columns: list[str]) -> pd.DataFrame:
    return run.read(table)[columns].sort_values(columns[:2], ignore_index=True)


def in_this_process(task, request):
    told: list = []
    task.work(request, told.append)
    return iter(told)
