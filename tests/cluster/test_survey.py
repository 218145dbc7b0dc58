"""A plan that a node makes is the plan that this machine would have made of the same config."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from fgbench.cluster import survey
from fgbench.cluster.engines import Local
from fgbench.cluster.node import Died
from fgbench.cluster.survey import Survey, SurveyRequest, _plan_in
from fgbench.errors import UsageError
from fgbench.plan import make_plan
from fgbench.running.messages import encode
from fgbench.running.phases import in_order
from fgbench.running.watcher import NotesAlone
from tests.builders import config
from tests.cluster.engine import Scripted


def test_all_of_the_plan_comes_back(tmp_path):
    asked, file = config(dataset="synthetic:shape=1x6x6,classes=4,samples=64"), tmp_path / "survey.jsonl"
    with file.open("w") as answer:
        Survey().work(SurveyRequest(asked), lambda event: print(encode(event), file=answer))
    plan, environment = _plan_in(file, Survey())
    assert plan == make_plan(asked)
    assert environment["device_name"]


def test_a_nodes_gpu_is_put_under_load_though_the_runners_machine_has_none(monkeypatch):
    told = []
    with monkeypatch.context() as node:
        node.setattr(torch.cuda, "is_available", lambda: True)
        node.setattr(survey, "environment_for", lambda plan: {})
        asked = config(dataset="synthetic:shape=1x6x6,classes=4,samples=64", device="auto")
        Survey().work(SurveyRequest(asked), told.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (surveyed,) = told
    assert surveyed.plan.config.device == surveyed.plan.groups[0].device == "cuda:0"
    assert "load" in [phase.name for phase in in_order(surveyed.plan.config)]


@pytest.mark.parametrize("kind", [Local, Scripted])
def test_on_this_machine_it_waits_until_no_task_is_timed(kind, tmp_path, monkeypatch):
    asked, locked = config(dataset="synthetic:shape=1x6x6,classes=4,samples=64"), []

    @contextmanager
    def lock(device, _note):
        locked.append(device)
        yield
        locked.remove(device)

    class Answers(kind):
        def submit(self, tasks, wave):
            assert locked == (["cpu"] if kind is Local else []), "a scheduler gives it a node of its own"
            with tasks[0].file.open("w") as answer:
                Survey().work(SurveyRequest(asked), lambda event: print(encode(event), file=answer))
            return ["1"]

    engine = Answers(tmp_path) if kind is Local else Answers()
    monkeypatch.setattr(survey, "timing_lock", lock)
    monkeypatch.setattr(survey, "engine_for", lambda _cluster, _out: engine)
    plan, _ = survey.survey(asked, {}, tmp_path, NotesAlone())
    assert plan == make_plan(asked)
    assert not locked


def test_why_a_node_cannot_make_it_is_told_in_plain_words(tmp_path):
    file = tmp_path / "survey.jsonl"
    file.write_text(encode(Died("error", "ImportError: no torch here")))
    with pytest.raises(UsageError) as raised:
        _plan_in(file, Survey())
    assert str(raised.value) == "a node cannot make the plan: ImportError: no torch here"
