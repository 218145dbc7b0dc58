"""Hugging Face's models as they are, built from their configurations, against reverse mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fgbench import methods
from fgbench.methods.steps.oracle import check_step
from fgbench.pushforward.engine import Pushforward
from fgbench.pushforward.tangents import RankOne
from fgbench.running.adapted import adapted
from tests.pushforward.checks import check, derivatives, drawn

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def of_tokens(output, target: Tensor) -> Tensor:
    """The next token's, those of padding left out."""
    logits, wanted = output.logits[:, :-1], target[:, 1:]
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=0, label_smoothing=0.1)


def of_classes(output, target: Tensor) -> Tensor:
    return F.cross_entropy(output["logits"], target)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=16, **SMALL)
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, **SMALL))


class Bert(nn.Module):
    """With a mask where there is padding."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = transformers.BertConfig(**sizes, num_labels=3, **{**SMALL, "pad_token_id": 0})
        self.bert = transformers.BertForSequenceClassification(config)

    def forward(self, ids):
        return self.bert(ids, attention_mask=(ids != 0).long())


class PaddedLeft(nn.Module):
    """A language model whose short sentences are padded in front, where no token sees any other."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids):
        ids = ids.flip(1)
        return self.model(ids, attention_mask=(ids != 0).long())


MODELS = {"gpt2": (gpt2, of_tokens), "llama": (llama, of_tokens), "bert": (Bert, of_classes)}
MODELS |= {
    "gpt2 padded left": (lambda: PaddedLeft(gpt2()), of_tokens),
    "llama padded left": (lambda: PaddedLeft(llama()), of_tokens),
}
ROUNDING = {"llama": 1e-6, "llama padded left": 1e-6}  # its norms are islands of float32


def built(name: str):
    torch.manual_seed(0)
    build, loss = MODELS[name]
    ids = torch.randint(1, 40, (2, 7))
    ids[1, 5:] = 0
    return build().train(), loss, (ids, ids if loss is of_tokens else torch.tensor([0, 2]))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_by_rules_alone_and_what_reverse_mode_says(name, count):
    model, loss, (x, y) = built(name)
    tolerance = ROUNDING.get(name, 1e-9)
    assert check(model, x, loss=loss, target=y, count=count, tolerance=tolerance).fallbacks == []


@pytest.mark.parametrize("name", MODELS)
def test_steps_are_right_along_training(name):
    model, loss, batch = built(name)
    model = model.double()
    for spec in ("forward:structure=rank-one,tangents=2", "forward:structure=activity,tangents=2"):
        check_step(methods.find(spec), model, loss, batch, 0)
    step = methods.find("forward:structure=rank-one").prepare(model, loss, 0)
    for _ in range(4):  # the last by the program alone
        step(batch, 1e-4)
    check_step(methods.find("forward:structure=rank-one"), model, loss, batch, 1)


def test_factored_tangents_stay_factored(monkeypatch):
    """Of every weight of GPT-2, looked up or multiplied."""
    model, loss, batch = built("gpt2")
    pushforward = Pushforward(model.double(), loss)
    tangents = drawn(model, 1, "rank-one")

    def full(self):
        raise AssertionError(f"multiplied out: {self.left.shape}, {self.right.shape}")

    monkeypatch.setattr(RankOne, "full", full)
    for _ in range(3):
        derivatives(pushforward, tangents, batch)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_tangent_pass_begins_at_the_first_perturbed_parameter(name):
    """What goes before it is computed once, on the batch alone."""
    model, loss, batch = built(name)
    model = model.double()
    last = dict(model.named_parameters())
    frozen = [p for key, p in last.items() if ".1." not in key]
    for parameter in frozen:
        parameter.requires_grad_(False)
    check(model, batch[0], loss=loss, target=batch[1], tolerance=ROUNDING.get(name, 1e-9))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("moving", ["wte", "h.1.mlp", "ln_f"])
def test_the_course_of_gpt2_is_settled_whatever_moves(moving, cached):
    """Without a cache it asks whether its positions follow each other, which shapes alone decide."""
    model, loss, (x, y) = built("gpt2")
    model.config.use_cache = cached
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(moving in name)
    pushforward = check(model, x, loss=loss, target=y)
    assert list(pushforward.settled.values()) == [""]


# ---- with the loss that the model computes itself, by noise on activities


def qwen2() -> nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, **heads, **SMALL))


OWN = {"gpt2": gpt2, "llama": llama, "qwen2": qwen2}  # the last two: with weights that belong to no layer


@pytest.mark.parametrize("options", ["", ",tangents=3", ",layers=one", ",tangents=3,layers=one"])
@pytest.mark.parametrize("name", OWN)
def test_noise_on_activities_with_the_models_own_loss(name, options):
    torch.manual_seed(0)
    ids = torch.randint(1, 40, (3, 7))
    batch = {"input_ids": ids, "labels": ids.clone()}
    model, loss, fitted = adapted(OWN[name]().double().train(), None, batch)
    method = methods.find(f"forward:structure=activity{options}")
    check_step(method, model, loss, fitted, 0)
    step = method.prepare(model, loss, 0)
    step(fitted, 0.0)
    assert [note for note in step.notes() if "jvp" in note] == [], "by rules alone"
