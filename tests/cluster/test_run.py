"""The runner of a cluster with scripted tasks: the tables of a run on one machine, whatever tasks do."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fgbench.cluster import run as cluster_run
from fgbench.cluster.engines import ENDED, QUEUED, RUNNING, NoAnswerError, NoRoomError, Seen, Wave
from fgbench.cluster.ledger import Ledger
from fgbench.cluster.node import NodeTask
from fgbench.cluster.outbox import Open, Outbox
from fgbench.cluster.run import run_on
from fgbench.errors import ResultsError, UsageError
from fgbench.plan import Plan
from fgbench.running import group_run
from fgbench.running.run import run_plan
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import TABLES
from tests.builders import Recorder, config, run_folder, tiny_group
from tests.cluster.engine import Scripted
from tests.scripted import Events, Script, event

METHODS = ("backprop", "forward", "forward:tangents=4", "spsa")
PLAN = Plan(
    config(methods=METHODS, processes=3, seeds=3, isolated=True, learning_rate=None, execution="best"),
    (tiny_group(depth=1), tiny_group(depth=2)),
)
pytestmark = pytest.mark.filterwarnings("ignore:Precision loss")  # scripted seconds are all alike
MANY = ("node", "cpu", "gpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(cluster_run, "PAUSE", 0.0)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> dict[str, Counter[str]]:
    """The tables of a run on one machine."""
    with pytest.MonkeyPatch.context() as patch:
        return rows(on_one_machine(tmp_path_factory.mktemp("here"), Script(), patch), *MANY)


def new_folder(root: Path, plan: Plan = PLAN) -> RunFolder:
    return run_folder(root, plan.groups, config={"methods": list(plan.config.methods)})


def contracts(plan: Plan = PLAN) -> dict[str, str]:
    return {group.name: "c0" for group in plan.groups}


def rows(folder: RunFolder, *but: str) -> dict[str, Counter[str]]:
    """Every table's rows, counted."""
    tables = {table: folder.read(table) for table in TABLES}
    return {
        name: Counter(map(str, t.drop(columns=[c for c in but if c in t]).to_numpy().tolist()))
        for name, t in tables.items()
    }


def on_one_machine(
    root: Path, script: Script, monkeypatch: pytest.MonkeyPatch, plan: Plan = PLAN
) -> RunFolder:
    folder = new_folder(root / "one", plan)
    monkeypatch.setattr(group_run, "work", script)
    run_plan(plan, folder, contracts(plan), Recorder())
    monkeypatch.setattr(group_run, "work", None)  # nothing may be run here from now on
    return folder


def go(folder: RunFolder, engine: Scripted, plan: Plan = PLAN) -> Recorder:
    watcher = Recorder()
    run_on(engine, plan, folder, contracts(plan), watcher)
    return watcher


class TestAWholeRun:
    def test_leaves_the_tables_of_a_run_on_one_machine(self, here, tmp_path):
        folder = new_folder(tmp_path)
        go(folder, Scripted())
        assert rows(folder, *MANY) == here
        assert folder.facts()["status"] == "done"
        assert set(folder.read("jobs")["node"]) == {"n1", "n2", "n3"}

    def test_hands_out_all_units_of_a_phase_of_all_groups_at_once(self, tmp_path):
        engine = Scripted()
        go(new_folder(tmp_path), engine)
        by_phase = [
            Counter(name.rsplit(".", 2)[1] if name[-1].isdigit() else name.split(".")[-1] for name in names)
            for _, names in engine.waves
        ]
        assert by_phase[0] == {"modes": 2}
        assert by_phase[1] == {"time": 6}
        assert by_phase[-2:] == [{"train": 6}, {"quality": 2}]
        assert {wave.shares for wave, names in engine.waves if ".train." in names[0]} == {True}
        assert {wave.shares for wave, names in engine.waves if ".time." in names[0]} == {False}

    def test_leaves_nothing_of_the_tasks_but_the_ledger(self, tmp_path):
        folder = new_folder(tmp_path)
        go(folder, Scripted())
        ledger = Ledger(folder.path)
        assert not list(ledger.units.iterdir())
        standing = ledger.standing()
        assert {record.state for record in standing.units.values()} == {"done"}
        assert len(standing.units) == 2 * (1 + 3 + 3 + 1 + 1 + 1 + 3 + 1)
        assert not list(folder.path.glob("snapshots"))

    def test_methods_that_fail_are_left_out_as_on_one_machine(self, tmp_path):
        """Processes run side by side: each may report a method that another's failure leaves out."""

        class Faulty(Script):
            def time(self, request: dict[str, Any]) -> Events:
                if request["process"] == 1:
                    yield event("Failed", method="forward:tangents=4", status="oom", detail="no room")
                    request = {**request, "methods": [m for m in request["methods"] if "tangents" not in m]}
                yield from super().time(request)

            def train(self, request: dict[str, Any]) -> Events:
                if request["seed"] == 1:
                    yield event("Failed", method="spsa", status="error", detail="boom")
                    request = {
                        **request,
                        "learning_rates": {m: 0.1 for m in request["learning_rates"] if m != "spsa"},
                    }
                yield from super().train(request)

        folder = new_folder(tmp_path)
        go(folder, Scripted(Faulty()))
        jobs = folder.read("jobs")
        assert set(jobs[jobs["phase"] == "memory"]["method"]) == set(METHODS) - {"forward:tangents=4"}
        own = jobs[(jobs["phase"] == "train") & (jobs["method"] == "spsa")]
        assert list(own["status"]) == ["error"] * 2
        curves = folder.read("curves")
        assert set(curves["job"]) <= set(jobs["job"]), "no curve without its job"
        assert folder.facts()["status"] == "done"


class TestMoreProcesses:
    def test_are_decided_on_from_the_whole_pilot(self, tmp_path, monkeypatch):
        from fgbench.running.phases import time

        monkeypatch.setattr(
            time, "two_stage_size", lambda medians, _precision: 4 if len(medians) == 3 else 99
        )
        # Scripted steps are long.
        enough = replace(PLAN, config=replace(PLAN.config, max_measure_seconds=1e4))
        folder, engine = new_folder(tmp_path), Scripted()
        go(folder, engine, enough)
        timed = folder.read("jobs").query("phase == 'time'")
        assert set(timed["process"]) == {0, 1, 2, 3}
        waves = [names for _, names in engine.waves if ".time." in names[0]]
        assert [len(names) for names in waves] == [6, 2]
        assert set(folder.read("ratios")["processes"].dropna()) == {4}


class TestTasksThatFail:
    def test_are_tried_once_more_elsewhere(self, here, tmp_path):
        unit = f"{PLAN.groups[0].name}.time.1"
        engine = Scripted(fate=lambda name, number: "NODE_FAIL" if name == unit and number == 1 else "ok")
        folder = new_folder(tmp_path)
        watcher = go(folder, engine)
        assert rows(folder, *MANY) == here
        wave = next(wave for wave, names in engine.waves if names == [unit])
        assert wave.without == ("n2",)
        assert any(unit in note and "NODE_FAIL" in note for note in watcher.notes)

    def test_twice_are_rows_that_say_why_and_a_resume_does_them_alone(self, here, tmp_path):
        unit = f"{PLAN.groups[0].name}.time.1"
        folder = new_folder(tmp_path)
        go(folder, Scripted(fate=lambda name, _: "NODE_FAIL" if name == unit else "ok"))
        jobs = folder.read("jobs")
        lost = jobs[jobs["status"] == "interrupted"]
        assert set(lost["job"].str.split("/").str[2:].str.join("/")) == {"time/1"}
        assert lost["detail"].str.contains("failed 2 times").all()
        assert set(jobs[jobs["phase"] == "time"]["process"]) == {0, 1, 2}, "what was measured is there"
        assert set(jobs[jobs["phase"] == "train"]["group"]) == {PLAN.groups[1].name}, (
            "nothing stands on a part"
        )
        assert folder.facts()["status"] == "interrupted"
        engine = Scripted()
        go(folder, engine)
        assert engine.waves[0][1] == [unit]
        assert rows(folder, *MANY) == here
        assert folder.facts()["status"] == "done"

    def test_a_worker_that_died_is_tried_once_more_and_then_a_row_as_on_one_machine(self, tmp_path):
        from fgbench.running.client import WorkerDiedError

        tried: list[str] = []

        class Dying(Script):
            def memory(self, request: dict[str, Any]) -> Events:
                tried.append(request["group"]["depth"])
                yield from ()
                raise WorkerDiedError("oom", "killed")

        folder = new_folder(tmp_path)
        go(folder, Scripted(Dying()))
        assert Counter(tried) == {1: 2, 2: 2}
        assert set(folder.read("jobs").query("phase == 'memory'")["status"]) == {"oom"}
        assert folder.facts()["status"] == "done"

    def test_of_their_time_limit_are_tried_again_only_where_they_would_go_on(self, tmp_path):
        timed, trained = (f"{PLAN.groups[i].name}.{unit}" for i, unit in ((0, "time.1"), (1, "train.2")))
        folder = new_folder(tmp_path)
        engine = Scripted(
            fate=lambda name, number: (
                "TIMEOUT, TimeLimit" if name in (timed, trained) and number == 1 else "ok"
            )
        )
        watcher = go(folder, engine)
        assert (engine.tries[timed], engine.tries[trained]) == (1, 2)
        (note,) = [note for note in watcher.notes if timed in note]
        assert f"fgbench run --resume {folder.path} --slurm time=" in note
        lost = folder.read("jobs").query("status == 'interrupted'")
        assert lost["detail"].str.contains("it reached its time limit, as it would again").all()

    def test_by_preemption_wait_again_in_the_status_too(self, here, tmp_path):
        unit = f"{PLAN.groups[0].name}.time.1"
        folder = new_folder(tmp_path)
        go(folder, Scripted(fate=lambda name, n: "PREEMPTED" if name == unit and n < 4 else "ok"))
        told = [line for line in Ledger(folder.path)._lines() if line.get("state") == "again"]
        assert [(line["units"], line["why"]) for line in told] == [([unit], "its task was preempted")] * 3
        assert rows(folder, *MANY) == here

    def test_that_are_held_in_the_queue_for_ever_are_taken_out_of_it(self, here, tmp_path):
        held, unit = "PENDING, launch failed requeued held", f"{PLAN.groups[0].name}.time.1"
        engine = Scripted(fate=lambda name, number: held if name == unit and number == 1 else "ok")
        folder = new_folder(tmp_path)
        go(folder, engine)
        wave, (_, names) = next((n, w) for n, w in enumerate(engine.waves, 1) if unit in w[1])
        assert engine.dropped == [f"{wave}_{names.index(unit)}"], "an administrator's release would start it"
        assert rows(folder, *MANY) == here

    def test_a_node_of_another_kind_is_refused_and_not_asked_again(self, tmp_path):
        def machine(node: str) -> dict[str, Any]:
            return {"cpu": "odd" if node == "n2" else "plain"}

        folder = new_folder(tmp_path)
        folder.path.joinpath("run.json").write_text(
            folder.path.joinpath("run.json")
            .read_text()
            .replace('"device_name"', '"cpu": "plain",\n "device_name"')
        )
        engine = Scripted(machine=machine)
        watcher = go(folder, engine)
        assert set(folder.read("jobs")["node"]) == {"n1", "n3"}
        assert set(folder.read("jobs")["cpu"]) == {"plain"}
        assert any("has odd, but the run is for plain" in note for note in watcher.notes)
        assert all(wave.without == ("n2",) for wave, _ in engine.waves[1:])
        assert folder.facts()["status"] == "done"


class TestStopping:
    def test_a_cancelled_task_is_not_tried_again_until_a_resume(self, here, tmp_path):
        folder = new_folder(tmp_path)
        engine = Scripted(
            fate=lambda name, _: "CANCELLED" if name.endswith((".train.1", ".train.3")) else "ok"
        )
        go(folder, engine)
        assert max(engine.tries.values()) == 1
        assert set(folder.read("curves")["seed"]) == {2}
        again = Scripted()
        go(folder, again)
        done = Counter(name.split(".")[-2] for _, names in again.waves for name in names)
        assert done == {"train": 4, "quality": 2}
        assert rows(folder, *MANY) == here

    def test_ctrl_c_leaves_tasks_and_a_resume_waits_for_them(self, here, tmp_path, monkeypatch):
        folder = new_folder(tmp_path)
        engine = Scripted(fate=lambda name, _: "never" if name.endswith(".time.2") else "ok")
        sleeps: list[float] = []

        def stop(seconds: float) -> None:
            sleeps.append(seconds)
            if len(sleeps) == 4:
                raise KeyboardInterrupt

        monkeypatch.setattr(cluster_run, "sleep", stop)
        watcher = Recorder()
        with pytest.raises(KeyboardInterrupt):
            run_on(engine, PLAN, folder, contracts(), watcher)
        assert any(
            "2 tasks go on" in note and f"fgbench cancel {folder.path}" in note for note in watcher.notes
        )
        assert folder.facts()["status"] == "interrupted"
        engine.fate = lambda _name, _try: "ok"
        before = len(engine.waves)
        unfinished = [n for _, names in engine.waves for n in names if n.endswith(".time.2")]
        monkeypatch.setattr(cluster_run, "sleep", lambda _seconds: finish(engine, folder, unfinished))
        go(folder, engine)
        assert not [n for _, names in engine.waves[before:] for n in names if ".time." in n], (
            "none is handed out twice"
        )
        assert rows(folder, *MANY) == here

    def test_fgbench_cancel_ends_the_runner_too(self, tmp_path, monkeypatch):
        folder = new_folder(tmp_path)
        engine = Scripted(fate=lambda _name, _try: "never")
        monkeypatch.setattr(cluster_run, "sleep", lambda _seconds: Ledger(folder.path).stop.touch())
        with pytest.raises(KeyboardInterrupt):
            go(folder, engine)
        assert len(engine.waves) == 1

    def test_fgbench_cancel_also_ends_what_is_handed_out_at_that_moment(self, tmp_path):
        class Late(Scripted):
            def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
                Ledger(folder.path).stop.touch()
                self.cancel([])  # as `fgbench cancel` does, of what it finds
                return super().submit(tasks, wave)

        folder, engine = new_folder(tmp_path), Late(fate=lambda _name, _try: "never")
        with pytest.raises(KeyboardInterrupt):
            go(folder, engine)
        assert {seen.word for seen in engine.known.values()} == {"CANCELLED"}

    def test_by_a_scheduler_that_refuses_says_that_tasks_go_on(self, tmp_path):
        class Refusing(Scripted):
            def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
                if self.waves:
                    raise UsageError("--on slurm: sbatch does not take the tasks: no such partition.")
                return super().submit(tasks, wave)

        folder, watcher = new_folder(tmp_path), Recorder()
        engine = Refusing(at_once=1, fate=lambda _name, _try: "never")
        with pytest.raises(UsageError, match="no such partition"):
            run_on(engine, PLAN, folder, contracts(), watcher)
        assert any(f"fgbench cancel {folder.path}" in note for note in watcher.notes)

    def test_by_a_full_disk_is_one_line_and_says_that_tasks_go_on(self, tmp_path, monkeypatch):
        def looked(_seconds: float) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cluster_run, "sleep", looked)
        folder, watcher = new_folder(tmp_path), Recorder()
        with pytest.raises(ResultsError, match="No space left on device; what was stored before is whole"):
            run_on(Scripted(fate=lambda _name, _try: "never"), PLAN, folder, contracts(), watcher)
        assert any(f"fgbench cancel {folder.path}" in note for note in watcher.notes)


def finish(engine: Scripted, folder: RunFolder, names: list[str]) -> None:
    """What tasks that were under way leave at last."""
    for task in engine.under_way:
        if task.file.stem in names and not task.file.exists():
            task.file.write_text("".join(engine.lines(task, "n3")))


class TestTheScheduler:
    def test_takes_no_more_than_it_has_room_for(self, here, tmp_path):
        folder, engine = new_folder(tmp_path), Scripted(most=2)
        go(folder, engine)
        assert max(len(names) for _, names in engine.waves) == 2
        assert not list(Ledger(folder.path).folder.glob("jobs/*")), "nothing is left of refused waves either"
        assert rows(folder, *MANY) == here

    def test_that_has_room_for_one_takes_another_also_after_one_that_failed(self, tmp_path, monkeypatch):
        class Narrow(Scripted):
            def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
                if any(seen.state == RUNNING for seen in self.known.values()):
                    raise NoRoomError("QOSMaxSubmitJobPerUserLimit")
                return super().submit(tasks, wave)

            def seen(self, jobs: Sequence[str]) -> dict[str, Seen]:
                failed = Seen(ENDED, "n1", "NODE_FAIL")
                self.known = {j: failed if s.state == RUNNING else s for j, s in self.known.items()}
                return self.known

        def looked(outbox: Outbox, under_way: dict[str, Open]) -> None:
            rounds.append(len(under_way))
            assert len(rounds) < 100, "without end"
            submit(outbox, under_way)

        rounds: list[int] = []
        submit = Outbox.submit
        plan = Plan(config(methods=("forward", "spsa"), time=False, seeds=2), PLAN.groups[:1])
        monkeypatch.setattr(Outbox, "submit", looked)
        folder = new_folder(tmp_path, plan)
        go(folder, Narrow(most=1, fate=lambda _name, number: "never" if number == 1 else "ok"), plan)
        assert folder.facts()["status"] == "done"

    def test_that_had_no_room_for_a_while_takes_whole_waves_again(self, here, tmp_path):
        class Crowded(Scripted):
            def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
                self.most = 1 if len(self.waves) < 8 else 1000
                return super().submit(tasks, wave)

        folder, engine = new_folder(tmp_path), Crowded()
        go(folder, engine)
        sizes = [len(names) for _, names in engine.waves]
        assert (sizes[:8], sizes[-2:]) == ([1] * 8, [6, 2]), "training, and the quality of each group"
        assert rows(folder, *MANY) == here

    def test_that_does_not_answer_gets_the_tasks_when_it_does(self, here, tmp_path):
        class Silent(Scripted):
            asked = 0

            def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
                self.asked += 1
                if self.asked in (1, 3, 4):
                    raise NoAnswerError("Unable to contact slurm controller")
                return super().submit(tasks, wave)

        folder, engine = new_folder(tmp_path), Silent()
        go(folder, engine)
        assert rows(folder, *MANY) == here
        assert max(engine.tries.values()) == 1

    def test_that_took_tasks_without_an_answer_gets_them_again_and_the_first_are_ended(self, here, tmp_path):
        class Late(Scripted):
            def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
                if not self.known:  # Slurm's array, whose work submitit has not put in place
                    self.known = {f"7_{place}": Seen(QUEUED, wave=wave.name) for place in range(len(tasks))}
                    raise NoAnswerError("Socket timed out on send/recv operation")
                assert self.dropped == ["7"], "before anything else is handed out"
                return super().submit(tasks, wave)

        folder, engine = new_folder(tmp_path), Late()
        go(folder, engine)
        assert engine.dropped == ["7"]
        assert max(engine.tries.values()) == 1
        assert rows(folder, *MANY) == here

    def test_that_takes_nothing_is_one_line(self, tmp_path):
        with pytest.raises(UsageError, match="does not accept any task: QOSMaxSubmit"):
            go(new_folder(tmp_path), Scripted(most=0))

    def test_that_starts_no_task_is_quoted_once_for_each_reason(self, tmp_path, monkeypatch):
        folder, watcher = new_folder(tmp_path), Recorder()
        engine = Scripted(fate=lambda _name, _try: "never")
        reasons = ["None", "Priority", "Priority", "JobHeldUser"]

        def look(_seconds: float) -> None:
            if not reasons:
                raise KeyboardInterrupt
            engine.known = dict.fromkeys(engine.known, Seen(QUEUED, "", reasons.pop(0)))

        monkeypatch.setattr(cluster_run, "sleep", look)
        with pytest.raises(KeyboardInterrupt):
            run_on(engine, PLAN, folder, contracts(), watcher)
        told = [note for note in watcher.notes if "wait for a node" in note]
        assert told == [f"no task runs, all wait for a node ({why})." for why in ("Priority", "JobHeldUser")]

    def test_that_is_down_is_waited_for(self, tmp_path, monkeypatch):
        folder = new_folder(tmp_path)
        unit = f"{PLAN.groups[0].name}.time.1"
        engine = Scripted(fate=lambda name, number: "NODE_FAIL" if name == unit and number == 1 else "ok")
        engine.answers = False
        rounds: list[float] = []

        def back(seconds: float) -> None:
            rounds.append(seconds)
            engine.answers = len(rounds) > 3

        monkeypatch.setattr(cluster_run, "sleep", back)
        go(folder, engine)
        assert len(rounds) > 3
        assert folder.facts()["status"] == "done"


def test_scripted_workers_start_at_once():
    """A real Slurm starts dozens of them, and torch would take two seconds in each."""
    light = "import sys, tests.cluster.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], cwd=ROOT, check=False).returncode == 0
