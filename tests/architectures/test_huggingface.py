"""Hugging Face's classes as architectures: from their configuration, or one clear line."""

from __future__ import annotations

import sys

import pytest
import torch

from fgbench import architectures
from fgbench.errors import UsageError
from fgbench.plan import make_plan
from fgbench.running.start import new_run
from tests.builders import config

GPT2 = "hf:GPT2LMHeadModel:n_layer=2,n_embd=16,n_head=2"


@pytest.mark.parametrize(
    "spec",
    [
        GPT2,
        "hf:BertForSequenceClassification:num_hidden_layers=1,hidden_size=16,num_attention_heads=2,"
        "intermediate_size=16,hidden_act=relu",
    ],
)
def test_a_model_of_the_asked_size_that_tells_classes(spec):
    pytest.importorskip("transformers")
    model = architectures.build(spec, 1, 1, (1, 4, 4), 3)
    assert model(torch.randn(5, 1, 4, 4)).shape == (5, 3)
    if spec == GPT2:
        assert (model.model.config.n_layer, model.model.config.n_embd) == (2, 16)


def test_a_language_model_predicts_every_next_byte_of_a_text():
    pytest.importorskip("transformers")
    model = architectures.build(GPT2, 1, 1, (6,), 256).eval()
    x = torch.randint(256, (5, 6))
    assert model(x).shape == (5, 6, 256)
    assert torch.equal(model(x), model.model(x).logits)


def test_a_model_that_sees_what_it_is_to_predict_is_refused():
    pytest.importorskip("transformers")
    bert = "hf:BertForMaskedLM:num_hidden_layers=1,hidden_size=16,num_attention_heads=2,intermediate_size=16"
    with pytest.raises(UsageError, match="must be causal"):
        architectures.build(bert, 1, 1, (6,), 256)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("hf:Gpt9", "no model class 'Gpt9'"),
        ("hf:GPT2LMHeadModel:layers=2", "no option 'layers'"),
        ("hf:GPT2LMHeadModel:n_layer", "not of the form option=value"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(spec, said):
    pytest.importorskip("transformers")
    with pytest.raises(UsageError, match=said):
        architectures.build(spec, 1, 1, (1, 4, 4), 3)


def test_without_transformers_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"pip install 'fgbench\[hf\]'"):
        architectures.build(GPT2, 1, 1, (1, 4, 4), 3)


def test_its_group_and_folder_have_names_that_every_file_system_takes(tmp_path):
    pytest.importorskip("transformers")
    plan = make_plan(config(archs=(GPT2,), dataset="pydoc:context=8", batch=2))
    assert plan.groups[0].name.startswith("hf.GPT2LMHeadModel.n_layer=2")
    run, _ = new_run(plan, tmp_path)
    assert run.path.name.endswith("-GPT2LMHeadModel-d1")
