"""A user's model as methods take one: tensors by name, outputs with logits or with a loss."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import fgbench
from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods.steps.oracle import check_step
from fgbench.running.adapted import adapted
from tests.builders import cross_entropy, only_here, tiny_batch, tiny_mlp


class TwoByName(nn.Module):
    """Of whole numbers and of images, with a switch; the output is a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.see, self.head = nn.Embedding(9, 4), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, ids, pixels, labels=None, double=False):
        assert ids.dtype == torch.int64
        h = self.words(ids).mean(1) + self.see(pixels.flatten(1))
        logits = self.head(2 * h if double else h)
        return {"logits": logits} | ({} if labels is None else {"loss": 3 * F.cross_entropy(logits, labels)})


def of_two(**more: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    return {"ids": torch.arange(15).view(5, 3) % 9, "pixels": torch.randn(5, 2, 3), **more}


LABELS = torch.arange(5) % 3


def test_a_plain_model_stays_as_it_is():
    model, batch = tiny_mlp(), tiny_batch()
    found, loss, (x, y) = adapted(model, cross_entropy, batch)
    assert (found, loss) == (model, cross_entropy)
    assert x is batch[0]
    assert y is batch[1]


class Keeps(nn.Module):
    """Leaves a part of its loss for its owner, as vector quantisers and mixtures of experts do."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.kept = nn.Linear(6, 3), {"aux": torch.zeros(())}

    def forward(self, x):
        self.kept["aux"] = self.head.weight.square().sum()
        return self.head(x)


def test_a_model_that_was_called_before_can_be_copied():
    torch.manual_seed(0)
    model, batch = Keeps(), (torch.randn(5, 6), LABELS)
    cross_entropy(model(batch[0]), batch[1]).backward()
    kept = model.kept["aux"]
    found, _, _ = adapted(model, cross_entropy, batch)
    check_step(methods.find("backprop"), found, cross_entropy, batch, 0)
    assert model.kept["aux"] is kept
    assert kept.grad_fn is not None


@pytest.mark.parametrize("way", ["by name", "a pair"])
def test_tensors_by_name_stand_side_by_side_in_one(way):
    torch.manual_seed(1)
    model = TwoByName()
    batch = of_two(labels=LABELS) if way == "by name" else (of_two(), LABELS)
    found, loss, (x, y) = adapted(model, cross_entropy, batch)
    assert x.shape == (5, 3 + 6)
    assert torch.allclose(found(x)["logits"], model(**of_two())["logits"])
    assert torch.allclose(found(x[1:3])["logits"], model(**of_two())["logits"][1:3])
    assert torch.allclose(loss(found(x), y), cross_entropy(model(**of_two())["logits"], LABELS))
    again = pickle.loads(pickle.dumps((found, loss)))
    assert torch.equal(again[1](again[0](x), y), loss(found(x), y))


def test_the_models_own_loss_and_what_is_no_tensor():
    torch.manual_seed(1)
    model = TwoByName()
    found, loss, (x, y) = adapted(model, None, of_two(labels=LABELS, double=True))
    assert torch.allclose(loss(found(x), y), model(**of_two(labels=LABELS, double=True))["loss"])


def test_a_loss_of_the_users_own_is_given_what_it_takes():
    model, batch = TwoByName(), of_two(labels=LABELS)

    def whole(output, target):
        return F.cross_entropy(output["logits"], target)

    assert adapted(model, whole, batch)[1] is whole
    found, loss, (x, y) = adapted(model, lambda logits, target: F.cross_entropy(logits, target) * 2, batch)
    assert torch.equal(loss(found(x), y), 2 * whole(found(x), y))


@pytest.mark.parametrize(
    ("loss", "batch", "line"),
    [
        (cross_entropy, of_two(), "no 'labels'"),
        (None, (torch.ones(2, 3), torch.ones(2)), "own loss needs a batch by name"),
        (cross_entropy, of_two(labels=LABELS[:3], pixels=torch.ones(4, 6)), "ids 5, pixels 4"),
        (cross_entropy, of_two(labels=LABELS, other=torch.ones(5)), "does not take this batch"),
        (F.mse_loss, of_two(labels=LABELS), "takes neither the model's output nor its logits"),
        (None, of_two(labels=LABELS) | {"ids": torch.full((5, 3), 2**30)}, "ids has numbers too large"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_does_not_fit_is_said_in_a_line(loss, batch, line):
    with pytest.raises(UsageError, match=line) as caught:
        adapted(TwoByName(), loss, batch)
    assert "\n" not in str(caught.value)


def test_a_parameter_without_values_is_named():
    model = TwoByName()
    model.shape_of = nn.Linear(3, 3, device="meta")
    with pytest.raises(UsageError, match=r"^compare: the parameter shape_of.weight is on the meta device"):
        adapted(model, None, of_two(labels=LABELS))


class Remembers(nn.Module):
    """Cross-entropy over its own running mean, which is kept in a buffer or in a plain attribute."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.mean = where, torch.ones((), dtype=torch.float64)
        if where == "buffer":
            del self.mean
            self.register_buffer("mean", torch.ones((), dtype=torch.float64))

    def forward(self, output, target):
        loss = F.cross_entropy(output, target)
        if self.where == "buffer":
            self.mean.lerp_(loss.detach(), 0.1)
        else:
            self.mean = self.mean.lerp(loss.detach(), 0.1)
        return loss / self.mean


class Counts:
    """Cross-entropy that warms up by the number of its calls, an object and no module."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, output, target):
        self.calls += 1
        return F.cross_entropy(output, target) * min(1.0, self.calls / 10)


class Learns(nn.Module):
    """Cross-entropy of logits that it scales."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output, target):
        return F.cross_entropy(self.scale * output, target)


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (Learns(), "parameters to train, as scale"),
        (Remembers("buffer"), "state that each call changes, as mean"),
        (Remembers("attribute"), "state that each call changes, as mean"),
        (Counts(), "state that each call changes, as calls"),
        (Counts().__call__, "state that each call changes, as calls"),
    ],
)
def test_a_loss_whose_state_methods_would_share_is_refused(loss, what):
    with pytest.raises(UsageError, match=f"the loss has {what}.*a part of the model"):
        adapted(*tiny_model_and(loss))
    assert float(getattr(loss, "mean", 1)) == 1, "it is left as it was"


def test_a_loss_that_reaches_weights_by_another_way_than_the_output_is_refused():
    """As a script's penalty on the weights of its model, of which each method trains a copy."""
    model, _, batch = tiny_model_and(cross_entropy)

    def penalised(output, target):
        return cross_entropy(output, target) + sum(p.square().sum() for p in model.parameters())

    with pytest.raises(UsageError, match=r"parameters to train that it does not get .*a part of the model"):
        adapted(model, penalised, batch)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert adapted(tiny_mlp(), penalised, batch)[1] is penalised


def test_a_loss_may_have_weights_that_stay():
    model, loss, batch = tiny_model_and(nn.CrossEntropyLoss(torch.rand(4)))
    assert adapted(model, loss, batch)[1] is loss


def test_such_a_loss_can_be_a_part_of_the_model():
    """As the line of the refusal says."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.loss = nn.Linear(3, 4), Learns()

        def forward(self, x, labels):
            return {"loss": self.loss(self.body(x), labels)}

    model, loss, batch = adapted(Whole(), None, {"x": torch.randn(5, 3), "labels": LABELS})
    assert len(methods.trainable(model)) == 3
    check_step(methods.find("forward"), model, loss, batch, seed=0)


def tiny_model_and(loss: nn.Module) -> tuple[nn.Module, nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    return tiny_mlp(), loss, tiny_batch()


# ---- Hugging Face's

SMALL = {"vocab_size": 40, "bos_token_id": None, "eos_token_id": None}


def of_tokens(labels_of: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(1, 40, (4, 6))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    labels = torch.tensor([0, 2, 1, 0]) if labels_of == "sentences" else ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def gpt2(transformers: Any) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    config = transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=8, **SMALL)
    return transformers.GPT2LMHeadModel(config), of_tokens("tokens")


def bert(transformers: Any) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, num_labels=3, pad_token_id=0, **SMALL)
    return transformers.BertForSequenceClassification(config), of_tokens("sentences")


@pytest.mark.parametrize("build", [gpt2, bert])
@pytest.mark.parametrize("given", ["own loss", "by name", "a pair"])
def test_hugging_faces_models_as_they_are(build, given):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model, batch = build(transformers)
    model.train()
    wanted = {key: value for key, value in batch.items() if key != "labels"}
    pair = {"own loss": batch, "by name": batch, "a pair": (wanted, batch["labels"])}[given]
    found, loss, fitted = adapted(model, None if given == "own loss" else cross_entropy, pair)
    torch.manual_seed(3)
    output = model(**batch)
    torch.manual_seed(3)
    value = loss(found(fitted[0]), fitted[1])
    if given == "own loss":
        assert torch.allclose(value, output.loss)
    else:
        flat = output.logits.flatten(0, -2)
        assert torch.allclose(value, cross_entropy(flat, batch["labels"].flatten()))
    check_step(methods.find("forward:structure=rank-one,tangents=2"), found, loss, fitted, 0)
    step = methods.find("forward:structure=rank-one").prepare(found, loss, 0)
    step(fitted, 0.0)
    step(fitted, 0.0)
    assert step.pushforward.fallbacks == [], "by rules alone"


def t5(transformers: Any) -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=40, decoder_start_token_id=0, pad_token_id=0, **sizes)
    return transformers.T5ForConditionalGeneration(config)


def bart(transformers: Any) -> nn.Module:
    parts = {f"{part}_{size}": n for part in ("encoder", "decoder") for size, n in
             (("layers", 1), ("ffn_dim", 24), ("attention_heads", 2))}  # fmt: skip
    config = transformers.BartConfig(vocab_size=40, d_model=16, max_position_embeddings=16, **parts)
    return transformers.BartForConditionalGeneration(config)


@pytest.mark.parametrize("build", [t5, bart])
def test_a_model_may_view_the_tensors_that_it_is_given_in_another_shape(build):
    torch.manual_seed(0)
    model = build(pytest.importorskip("transformers")).train()
    batch = {"input_ids": torch.randint(3, 40, (4, 6)), "labels": torch.randint(3, 40, (4, 5))}
    found, loss, fitted = adapted(model, None, batch)
    torch.manual_seed(3)
    wanted = model(**batch).loss
    torch.manual_seed(3)
    assert torch.allclose(loss(found(fitted[0]), fitted[1]), wanted)
    for structure in ("rank-one,tangents=2", "activity"):
        check_step(methods.find(f"forward:structure={structure}"), found, loss, fitted, 0)


@pytest.mark.filterwarnings("ignore:fgbench.compare. measured in the calling process")
@pytest.mark.usefixtures("short_blocks")
def test_compare_takes_a_model_of_hugging_faces():
    model, batch = bert(pytest.importorskip("transformers"))

    def loss(output, target):
        return cross_entropy(output.logits, target)

    table = fgbench.compare(model.train(), only_here(loss), batch, max_measure_seconds=0.05)
    assert set(table["status"]) == {"ok"}, table.get("detail")
    assert {"backprop", "forward"} <= set(table["method"])
