"""Which parameters learn, and what LoRA adds: exact in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fgbench import architectures, methods
from fgbench.errors import UsageError
from fgbench.methods.steps import oracle
from fgbench.training.losses import over_tokens
from fgbench.training.trained import LoraLinear, canonical_trained, choose_trained

DEPTH, WIDTH = 3, 8


def transformer() -> nn.Module:
    torch.manual_seed(0)
    return architectures.build("transformer", DEPTH, WIDTH, (5,), 11).double()


def batch() -> methods.Batch:
    x, y = torch.randint(11, (2, 6, 5), generator=torch.Generator().manual_seed(1))
    return x, y


def learning(model: nn.Module) -> set[str]:
    return set(methods.trainable(model))


def chosen(spec: str, model: nn.Module | None = None) -> nn.Module:
    model = model or transformer()
    choose_trained(model, spec)
    return model


def test_all_is_all():
    assert learning(chosen("all")) == set(dict(transformer().named_parameters()))


def test_head_is_the_last_linear_layer_alone_untied_from_the_embedding():
    before = transformer()
    model = chosen("head")
    assert learning(model) == {f"{DEPTH + 2}.weight"}
    assert model[-1].weight is not model[0].token.weight
    assert torch.equal(model(batch()[0]), before(batch()[0]))


def test_bias_is_every_bias():
    names = learning(chosen("bias"))
    assert names == {n for n, _ in transformer().named_parameters() if n.endswith(".bias")}
    assert len(names) == 6 * DEPTH + 1


def test_last_2_is_two_blocks_and_the_norm_after_them_without_the_tied_head():
    names = {name.split(".")[0] for name in learning(chosen("last:2"))}
    assert names == {str(DEPTH - 1), str(DEPTH), str(DEPTH + 1)}


def test_last_2_of_an_mlp_is_its_two_last_layers():
    model = chosen("last:2", architectures.build("mlp", 3, 4, (1, 2, 2), 3))
    assert learning(model) == {"5.weight", "5.bias", "7.weight", "7.bias"}


def test_lora_begins_as_the_model_was_and_adds_rank_times_inputs_and_outputs():
    model = chosen("lora:rank=2,targets=qkv+out")
    assert torch.equal(model(batch()[0]), transformer()(batch()[0]))
    wanted = DEPTH * (2 * (WIDTH + 3 * WIDTH) + 2 * (WIDTH + WIDTH))
    assert sum(p.numel() for p in methods.trainable(model).values()) == wanted


def test_lora_without_targets_is_in_every_linear_layer_but_the_head():
    model = chosen("lora:rank=1")
    assert sum(isinstance(m, LoraLinear) for m in model.modules()) == 4 * DEPTH
    assert type(model[-1]) is nn.Linear


def test_lora_is_its_formula_and_pefts():
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    plain = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    own = copy.deepcopy(plain)
    choose_trained(own, "lora:rank=2,alpha=3,targets=0")
    nn.init.normal_(own[0].raise_.weight)
    settings = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0"], lora_dropout=0.0)
    theirs = peft.get_peft_model(copy.deepcopy(plain), settings).double()
    layer = theirs.base_model.model[0]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(own[0].lower.weight)
        layer.lora_B["default"].weight.copy_(own[0].raise_.weight)
    x = torch.randn(7, 6, dtype=torch.float64)
    assert torch.allclose(own(x), theirs(x), rtol=1e-12)
    moved = plain[0].weight + 1.5 * own[0].raise_.weight @ own[0].lower.weight
    written = plain[2](torch.tanh(nn.functional.linear(x, moved, plain[0].bias)))
    assert torch.allclose(own(x), written, rtol=1e-12)


@pytest.mark.parametrize(
    "trained", ["head", "bias", "last:1", "lora:rank=2", "lora:rank=2,alpha=4,targets=up"]
)
@pytest.mark.parametrize(
    "spec",
    [
        *("backprop", "backprop:checkpoint=true,update=in-backward,accumulate=3", "spsa"),
        *("forward", "forward:tangents=2,structure=rank-one", "forward:structure=rank-one,layers=one"),
    ],
)
def test_every_method_trains_what_is_chosen_and_nothing_else(spec, trained):
    model = chosen(trained)
    for layer in model.modules():  # B away from zero: otherwise A has no gradient
        if isinstance(layer, LoraLinear):
            nn.init.normal_(layer.raise_.weight, std=0.1)
    oracle.check_step(methods.find(spec), model, over_tokens, batch(), seed=2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    names = learning(model)
    step = methods.find(spec).prepare(model, over_tokens, seed=0)
    for _ in range(3):
        step(batch(), 1e-3)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved <= names
    assert moved == names or "layers=one" in spec, "one layer a step: not all had their turn"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("some", "must be one of all, head"),
        ("last", "must be one of"),
        ("last:0", "must be one of"),
        ("head:2", "must be one of"),
        ("lora:rank=0", "must be at least 1"),
        ("lora:size=3", "has no option 'size'"),
    ],
)
def test_what_is_no_choice_is_refused(spec, said):
    with pytest.raises(UsageError, match=said):
        canonical_trained(spec)


def test_canonical_leaves_defaults_out():
    assert canonical_trained("lora:rank=8,targets=qkv") == "lora:targets=qkv"
    assert canonical_trained("last:02") == "last:2"


@pytest.mark.parametrize(
    ("spec", "said"),
    [("lora:targets=query", "is called 'query': choose from qkv"), ("last:9", "has 4 layers")],
)
def test_a_model_without_it_is_named(spec, said):
    with pytest.raises(UsageError, match=said):
        chosen(spec)
