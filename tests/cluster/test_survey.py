"""A plan that a node makes is the plan that this machine would have made of the same config."""

from __future__ import annotations

import pytest
import torch

from fgbench.cluster import survey
from fgbench.cluster.node import Died
from fgbench.cluster.survey import Survey, SurveyRequest, _plan_in
from fgbench.errors import UsageError
from fgbench.plan import make_plan
from fgbench.running.messages import encode
from fgbench.running.phases import in_order
from tests.builders import config


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


def test_why_a_node_cannot_make_it_is_told_in_plain_words(tmp_path):
    file = tmp_path / "survey.jsonl"
    file.write_text(encode(Died("error", "ImportError: no torch here")))
    with pytest.raises(UsageError) as raised:
        _plan_in(file, Survey())
    assert str(raised.value) == "a node cannot make the plan: ImportError: no torch here"
