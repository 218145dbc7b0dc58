"""Runs that are cut off, by anything at any moment: finished rows are there, and a resume completes them.

The workers are scripted, the runner and its files are real, in a process of its own that is killed.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fgbench.errors import UsageError
from fgbench.plan import Plan
from fgbench.running import group_run
from fgbench.running.group_run import Unit
from fgbench.running.recovery import finished
from fgbench.running.run import run_plan
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import TABLES
from tests.builders import Recorder, config, run_folder, tiny_group
from tests.scripted import Events, Script, event, point

METHODS = ("backprop", "forward", "forward:tangents=4", "spsa")
PLAN = Plan(
    config(methods=METHODS, processes=3, seeds=3, isolated=True, learning_rate=None, execution="best"),
    (tiny_group(depth=1), tiny_group(depth=2)),
)
pytestmark = pytest.mark.filterwarnings("ignore:Precision loss")  # scripted seconds are all alike
KILLS = 20
PAUSE = 0.0005  # between two reports of a worker: a kill then falls anywhere in the run


class Faulty(Script):
    """One method does not fit into memory from the second process on, one diverges with every seed."""

    def tell(self, request: dict[str, Any]) -> Events:
        for happened in super().tell(request):
            time.sleep(PAUSE)
            yield happened

    def time(self, request: dict[str, Any]) -> Events:
        if request["process"] == 1:
            yield event("Failed", method="forward:tangents=4", status="oom", detail="no room")
            request = {**request, "methods": [m for m in request["methods"] if m != "forward:tangents=4"]}
        yield from super().time(request)

    def train(self, request: dict[str, Any]) -> Events:
        yield point("spsa", 0, 3.0)
        yield point("spsa", 10, float("nan"))
        yield event("Failed", method="spsa", status="diverged", detail="no longer finite")
        rates = {m: r for m, r in request["learning_rates"].items() if m != "spsa"}
        yield from super().train({**request, "learning_rates": rates})


def go(path: Path, file_limit: int | None = None) -> None:
    """Run the plan into a folder, or go on with it; files that grow beyond a limit cannot be written."""
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    group_run.work = Faulty()  # type: ignore[assignment]
    run_plan(PLAN, RunFolder.open(path), {g.name: "c0" for g in PLAN.groups}, Recorder())


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """Starts processes from one that has imported all and runs one thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    first = context.Process(target=time.sleep, args=(0,))
    first.start()
    first.join()  # the imports are done: what follows takes as long as it does itself
    return context


def started(server: Any, folder: RunFolder, **changes: Any) -> Any:
    process = server.Process(target=go, args=(folder.path,), kwargs=changes)
    process.start()
    return process


def new_folder(root: Path) -> RunFolder:
    return run_folder(root, PLAN.groups, config={"methods": list(METHODS)})


def rows(folder: RunFolder) -> dict[str, Counter[str]]:
    """Every table's rows, counted: none may be lost or be there twice."""
    return {
        table: Counter(",".join(map(str, row)) for row in folder.read(table).to_numpy().tolist())
        for table in TABLES
    }


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory) -> tuple[dict[str, Counter[str]], float]:
    """What a run leaves that nothing stops, and the seconds it takes."""
    folder = new_folder(tmp_path_factory.mktemp("whole"))
    start = time.perf_counter()
    process = started(server, folder)
    process.join()
    assert process.exitcode == 0
    assert folder.facts()["status"] == "done"
    jobs = folder.read("jobs")
    assert set(jobs["status"]) == {"ok", "oom", "diverged"}
    assert all(len(folder.read(table)) for table in set(TABLES) - {"parts", "load", "variants"})
    return rows(folder), time.perf_counter() - start


def resumed(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Script:
    script = Faulty()
    monkeypatch.setattr(group_run, "work", script)
    run_plan(PLAN, folder, {g.name: "c0" for g in PLAN.groups}, Recorder())
    assert folder.facts()["status"] == "done"
    return script


def unit_of(request: dict[str, Any]) -> Unit:
    index = {"time": "process", "alone": "process", "train": "seed"}.get(request["phase"])
    name = next(g.name for g in PLAN.groups if g.depth == request["group"]["depth"])
    return Unit(name, request["phase"], request[index] if index else None)


@pytest.mark.parametrize("kill", range(KILLS))
def test_kill_9_at_any_moment_loses_and_doubles_nothing(server, whole, kill, tmp_path, monkeypatch):
    expected, seconds = whole
    folder = new_folder(tmp_path)
    process = started(server, folder)
    # A twentieth of the run for each of the 20 kills, at a random moment in it.
    process.join(seconds * (kill + random.Random(kill).random()) / KILLS)
    process.kill()
    process.join()
    tables = {table: folder.read(table) for table in TABLES}  # each can be read as it was left
    done = finished(tables["jobs"], list(METHODS))
    script = resumed(folder, monkeypatch)
    assert rows(folder) == expected
    again = {unit_of(request) for request in script.requests}
    assert not again & done, "what was finished is not done again"


@pytest.mark.parametrize("limit", [3000, 9000])
def test_a_full_disk_ends_the_run_and_a_resume_completes_it(server, whole, limit, tmp_path, monkeypatch):
    folder = new_folder(tmp_path)
    process = started(server, folder, file_limit=limit)
    process.join()
    assert process.exitcode == 1, "it must not look like success"
    assert all(isinstance(folder.read(table), pd.DataFrame) for table in TABLES)
    assert not list(folder.path.glob(".*.csv.*")), "nothing half-written is left beside the tables"
    resumed(folder, monkeypatch)
    assert rows(folder) == whole[0]


def test_a_folder_that_cannot_be_written_any_more_is_one_line(tmp_path, monkeypatch):
    folder = new_folder(tmp_path)
    monkeypatch.setattr(group_run, "work", Faulty())
    (folder.path / "samples.csv").mkdir()
    with pytest.raises(UsageError, match=r"samples\.csv"):
        run_plan(PLAN, folder, {g.name: "c0" for g in PLAN.groups}, Recorder())


def test_a_finished_run_is_left_as_it_is(server, whole, tmp_path, monkeypatch):
    folder = new_folder(tmp_path)
    started(server, folder).join()
    assert resumed(folder, monkeypatch).requests == []
    assert rows(folder) == whole[0]


def test_two_that_write_to_one_run_do_not_harm_it(server, whole, tmp_path):
    folder = new_folder(tmp_path)
    first, second = started(server, folder), started(server, folder)
    first.join()
    second.join()
    assert sorted((first.exitcode, second.exitcode)) == [0, 1], "one of them is refused"
    assert rows(folder) == whole[0]


def test_a_worker_that_died_is_tried_again_elsewhere_and_not_here(tmp_path, monkeypatch):
    from fgbench.running.client import WorkerDiedError

    class Dying(Script):
        def time(self, request: dict[str, Any]) -> Events:
            yield from ()
            raise WorkerDiedError("oom", "killed")

        def train(self, request: dict[str, Any]) -> Events:
            yield from ()
            raise KeyboardInterrupt

    folder = new_folder(tmp_path)
    monkeypatch.setattr(group_run, "work", Dying())
    with pytest.raises(KeyboardInterrupt):
        run_plan(PLAN, folder, {g.name: "c0" for g in PLAN.groups}, Recorder())
    script = resumed(folder, monkeypatch)
    first = [r for r in script.requests if r["group"]["depth"] == 1]
    assert {r["phase"] for r in first} == {"train", "quality"}, "its timing ended, if badly"
    assert all(r["methods"] == list(METHODS) for r in first)


def killed_in(phase: str, events: int) -> Script:
    """A script whose worker of a phase dies after so many reports, at its first try."""
    from fgbench.running.client import WorkerDiedError

    class Killed(Script):
        tried = False

        def tell(self, request: dict[str, Any]) -> Events:
            for number, happened in enumerate(super().tell(request)):
                if request["phase"] == phase and not self.tried and number == events:
                    self.tried = True
                    raise WorkerDiedError("oom", "killed")
                yield happened

    return Killed()


@pytest.mark.parametrize(
    ("phase", "events"), [("tune", 1), ("tune", 3), ("tune", 6), ("train", 0), ("train", 5)]
)
def test_tuning_and_training_whose_worker_died_are_done_again_and_nothing_else(
    phase, events, tmp_path, monkeypatch
):
    """The half of the methods that a tuning had come to must not stand for all of them."""
    folder = new_folder(tmp_path)
    monkeypatch.setattr(group_run, "work", killed_in(phase, events))
    run_plan(PLAN, folder, {g.name: "c0" for g in PLAN.groups}, Recorder())
    first = PLAN.groups[0].name
    before = folder.read("curves")
    script = resumed(folder, monkeypatch)
    seeds = {unit_of(r) for r in script.requests}
    wanted = {Unit(first, "train", 1)} if phase == "train" else {Unit(first, "tune")}
    wanted |= {Unit(first, "train", seed) for seed in (1, 2, 3)} if phase == "tune" else set()
    assert seeds == wanted
    kept = before[~before["job"].str.endswith("/train/1")] if phase == "train" else before
    after = folder.read("curves")
    assert set(kept["job"]) <= set(after["job"]), "no finished seed is lost"
    trained = folder.read("jobs").query("phase == 'train'").groupby(["group", "seed"])["method"].agg(set)
    assert all(found == set(METHODS) for found in trained)
    assert len(trained) == 2 * 3


def test_a_run_with_seeds_added_is_one_that_had_them_from_the_beginning(whole, tmp_path, monkeypatch):
    expected, _ = whole
    folder = new_folder(tmp_path)
    monkeypatch.setattr(group_run, "work", Faulty())
    contracts = {g.name: "c0" for g in PLAN.groups}
    fewer = dataclasses.replace(PLAN, config=dataclasses.replace(PLAN.config, seeds=2))
    run_plan(fewer, folder, contracts, Recorder())
    assert rows(folder) != expected
    script = resumed(folder, monkeypatch)
    assert rows(folder) == expected
    assert {request["phase"] for request in script.requests} == {"train"}, "nothing else is done again"


def test_the_checkpoint_of_a_seed_whose_worker_died_stays_until_it_is_finished(tmp_path, monkeypatch):
    folder = new_folder(tmp_path)
    script = killed_in("train", 3)
    monkeypatch.setattr(group_run, "work", script)
    snapshot = folder.snapshot(f"{PLAN.groups[0].name}-1")
    snapshot.parent.mkdir(exist_ok=True)
    snapshot.touch()
    run_plan(PLAN, folder, {g.name: "c0" for g in PLAN.groups}, Recorder())
    assert snapshot.exists()
    resumed(folder, monkeypatch)
    assert not snapshot.exists()
