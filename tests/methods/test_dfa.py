"""Direct feedback alignment, against its closed form and on real digits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods import Conditions
from fgbench.methods.dfa import DfaStep
from fgbench.methods.steps import oracle
from tests.builders import cross_entropy, reverse_gradient, tiny_batch, tiny_mlp
from tests.methods.digits import trained

BOTH = ("dfa", "fdfa")


class Chain(nn.Module):
    """A forward of its own, with dropout and an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")
        self.hidden, self.last = nn.Linear(16, 6), nn.Linear(6, 3)
        self.drop, self.inplace = nn.Dropout(0.5), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(torch.tanh(self.convolution(x)), 2)
        x = self.drop(self.inplace(self.hidden(torch.flatten(x, 1))))
        return functional.log_softmax(self.last(x), dim=1)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return x + self.inner(x)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def shared() -> nn.Module:
    layer = nn.Linear(16, 16)
    return nn.Sequential(nn.Flatten(), layer, nn.Tanh(), layer)


def test_update_is_the_closed_form():
    """δ = (e B) ⊙ (1 − h²) for tanh, ∂W = δᵀ x, e = (softmax − target) / batch; float64."""
    model, (x, y) = tiny_mlp(), tiny_batch()
    step = methods.find("dfa").prepare(model, cross_entropy, seed=4)
    first, last = model[1], model[3]
    with torch.no_grad():
        rows = x.flatten(1)
        h = torch.tanh(first(rows))
        e = (last(h).softmax(1) - functional.one_hot(y, 3)) / len(x)
    before = [p.detach().clone() for p in model.parameters()]
    step((x, y), 0.5)
    (b,) = step.state()["feedback"]
    delta = torch.einsum("bc,ch->bh", e, b) * (1 - h**2)
    gradients = [
        torch.einsum("bh,bi->hi", delta, rows),
        delta.sum(0),
        torch.einsum("bc,bh->ch", e, h),
        e.sum(0),
    ]
    for old, new, gradient in zip(before, model.parameters(), gradients, strict=True):
        torch.testing.assert_close(new, old - 0.5 * gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("spec", BOTH)
def test_last_layer_gets_its_gradient_and_the_others_do_not(spec):
    model, batch = tiny_mlp(), tiny_batch()
    gradient = reverse_gradient(model, batch)
    step = methods.find(spec).prepare(model, cross_entropy, seed=0)
    step(batch, 0.0)
    for found, true in zip(step.gradients[2:], gradient[2:], strict=True):
        torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-15)
    assert not torch.allclose(step.gradients[0], gradient[0], rtol=0.1)


@pytest.mark.parametrize("spec", BOTH)
def test_without_hidden_layers_it_is_backprop(spec):
    model, batch = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double(), tiny_batch()
    gradient = reverse_gradient(model, batch)
    step = methods.find(spec).prepare(model, cross_entropy, seed=0)
    step(batch, 0.1)
    torch.testing.assert_close(list(step.gradients), gradient, rtol=1e-12, atol=1e-15)


def test_feedback_stays_as_it_was_drawn():
    step = methods.find("dfa").prepare(tiny_mlp(), cross_entropy, seed=0)
    step(tiny_batch(), 0.1)
    (drawn,) = (b.clone() for b in step.state()["feedback"])
    step(tiny_batch(), 0.1)
    assert torch.equal(step.state()["feedback"][0], drawn)


@pytest.mark.parametrize("spec", BOTH)
def test_a_forward_of_its_own_with_dropout_and_pooling(spec):
    torch.manual_seed(0)
    oracle.check_step(methods.find(spec), Chain().double().train(), functional.nll_loss, tiny_batch(), seed=1)


@pytest.mark.parametrize("spec", BOTH)
def test_a_model_may_give_one_number_a_sample(spec):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()
    batch = torch.randn(4, 6).double(), torch.randn(4).double()
    oracle.check_step(methods.find(spec), model, functional.mse_loss, batch, 1)


@pytest.mark.parametrize("spec", BOTH)
def test_a_frozen_layer_belongs_to_the_piece_before_it(spec):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()
    model[3].requires_grad_(False)
    oracle.check_step(methods.find(spec), model, cross_entropy, tiny_batch(), seed=1)


def test_the_check_finds_feedback_that_is_off(monkeypatch):
    right = DfaStep._fed_back
    monkeypatch.setattr(DfaStep, "_fed_back", lambda step, error: [1.01 * c for c in right(step, error)])
    with pytest.raises(oracle.WrongStepError):
        oracle.check_step(methods.find("dfa"), tiny_mlp(), cross_entropy, tiny_batch(), seed=1)


@pytest.mark.parametrize("spec", BOTH)
@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Residual(), "'add' reads more"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5)), "'2' is a BatchNorm1d"),
        (shared(), "used twice"),
        (Branching(), "cannot trace"),
    ],
    ids=["residual", "batch norm", "shared", "branching"],
)
def test_another_kind_of_model_is_refused_in_one_line(spec, model, why):
    with pytest.raises(UsageError, match=f"^{spec} trains a chain .*{why}") as refused:
        methods.find(spec).prepare(model, cross_entropy, seed=0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("spec", BOTH)
def test_a_cuda_graph_is_refused(spec):
    with pytest.raises(UsageError, match="runs eagerly"):
        methods.prepare(methods.find(spec), tiny_mlp(), cross_entropy, 0, Conditions("cudagraph"))


def test_weights_align_with_the_feedback_on_digits():
    run = trained("dfa", learning_rate=0.01, steps=200)
    assert run.validation_loss < 0.25 * run.first_validation_loss, run
    assert min(run.cosines) > 0.1, run  # below 84°; at the first step it is as good as 90°
    assert max(map(abs, run.first_cosines)) < 0.1, run
