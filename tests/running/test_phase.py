"""Phases as a system: each is found by its file, in an order that holds, and a new one is one file."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from fgbench.plan import Plan
from fgbench.running import group_run, phases
from fgbench.running.duration import seconds_of
from fgbench.running.phases import find, in_order
from fgbench.running.run import run_plan
from fgbench.store.schema import TABLES
from tests.builders import Recorder, config, run_folder, tiny_group
from tests.scripted import Script

NAMES = ("alone", "budget", "cost", "load", "memory", "modes", "quality", "time", "train", "tune")

# The number of the group's layers, asked of a worker, and a row of memory.csv: a phase in forty lines.
TOY = """
from dataclasses import asdict, dataclass
from fgbench.running.messages import Message
from fgbench.running.phase import OfGroup, Phase


@dataclass(frozen=True)
class Counted(Message):
    method: str
    kind: str
    bytes: int


class Toy(Phase):
    name = "toy"
    request = OfGroup
    reports = (Counted,)

    def asked(self, config):
        return True

    def after(self, config):
        return ("time",)

    def seconds(self, config):
        return 1000.0

    def run(self, group):
        if group.finished(self.name):
            return
        with group.jobs(self.name, group.methods) as jobs:
            for event in group.work(self, jobs):
                group.store("memory", asdict(event))

    def measure(self, matched, asked, report):
        report(Counted("base", "layers", len(list(matched.model.modules()))))


phase = Toy()
"""


def test_every_file_is_a_phase_that_has_its_name():
    files = {file.stem for file in Path(phases.__file__).parent.glob("*.py")} - {"__init__"}
    assert tuple(phase.name for phase in phases.phases()) == NAMES == tuple(sorted(files))
    assert all(phase.unit in TABLES["jobs"] or not phase.unit for phase in phases.phases())


def test_every_table_that_a_phase_fills_has_the_columns_that_tell_its_units_apart():
    for phase in phases.phases():
        for table in phase.tables:
            assert not phase.unit or phase.unit in TABLES[table], (phase.name, table)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["modes", "time", "cost", "memory", "tune", "train", "quality"]),
        ({"isolated": True}, ["modes", "time", "alone", "cost", "memory", "tune", "train", "quality"]),
        ({"device": "cuda:0", "train": False}, ["modes", "time", "load", "cost", "memory"]),
        ({"time": False}, ["modes", "tune", "train", "quality"]),
        ({"methods": ("forward",), "train": False}, ["time", "cost", "memory"]),
        ({"memory_budget": 1}, ["budget", "time", "cost", "memory", "tune", "train", "quality"]),
        (
            {"optimizer": "sgd|adam", "learning_rate": None},
            ["modes", "tune", "time", "cost", "memory", "train", "quality"],
        ),
    ],
)
def test_phases_come_after_those_that_they_need(changes, names):
    assert [phase.name for phase in in_order(config(**changes))] == names


@pytest.mark.parametrize("execution", ["eager", "compile"])
def test_the_first_process_of_timing_alone_compiles_afresh_if_anything_does(tmp_path, monkeypatch, execution):
    requests = []
    group = tiny_group(execution=execution)
    script = Script()

    def work(task, request):
        requests.append((getattr(task, "name", ""), task.compiles_afresh(request)))
        return script(task, request)

    monkeypatch.setattr(group_run, "work", work)
    plan = Plan(config(processes=2, train=False), (group,))
    run_plan(plan, run_folder(tmp_path, plan.groups), {group.name: "c0"}, Recorder())
    assert requests == [
        *(("modes", False), ("modes", False)),
        *(("time", execution == "compile"), ("time", False)),
        *(("cost", False), ("memory", False)),
    ]


def test_a_new_phase_is_one_file(tmp_path, monkeypatch):
    """Runner, worker, estimate and recovery know it from there on."""
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import toy  # type: ignore[import-not-found]

    real = phases.phases()
    monkeypatch.setattr(phases, "phases", lambda: (*real, toy.phase))
    monkeypatch.setattr("fgbench.running.recovery.phases", phases.phases)
    asked = config(train=False, methods=("forward",))
    assert {phase.name for phase in in_order(asked)} == {"time", "cost", "memory", "toy"}
    assert seconds_of(asked, 2) > 2000
    script = Script(toy=lambda request: iter([]))
    monkeypatch.setattr(group_run, "work", script)
    plan = Plan(asked, (tiny_group(),))
    folder = run_folder(tmp_path, plan.groups, config={"methods": ["forward"]})
    run_plan(plan, folder, {tiny_group().name: "c0"}, Recorder())
    assert sorted(r["phase"] for r in script.requests) == ["cost", "memory", "time", "toy"]
    assert "toy" in set(folder.read("jobs")["phase"])
    again = Script()
    monkeypatch.setattr(group_run, "work", again)
    run_plan(plan, folder, {tiny_group().name: "c0"}, Recorder())
    assert again.requests == [], "it was finished"
    events: list[object] = []
    request = toy.Toy.request(
        group=tiny_group(), data_dir="nowhere", seed=0, methods=("forward",), choices=group_run.Choices()
    )
    toy.phase.work(request, events.append)
    assert asdict(events[-1])["kind"] == "layers"  # type: ignore[call-overload]
    sys.modules.pop("toy")


def test_a_name_finds_its_phase():
    assert find("time").name == "time"
