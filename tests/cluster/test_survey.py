"""A plan that a node makes is the plan that this machine would have made of the same config."""

from __future__ import annotations

from fgbench.cluster.survey import Survey, SurveyRequest, _plan_in
from fgbench.plan import make_plan
from fgbench.running.messages import encode
from tests.builders import config


def test_all_of_the_plan_comes_back(tmp_path):
    asked, file = config(dataset="synthetic:shape=1x6x6,classes=4,samples=64"), tmp_path / "survey.jsonl"
    with file.open("w") as answer:
        Survey().work(SurveyRequest(asked), lambda event: print(encode(event), file=answer))
    plan, environment = _plan_in(file, Survey())
    assert plan == make_plan(asked)
    assert environment["device_name"]
