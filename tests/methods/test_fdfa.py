"""Forward direct feedback alignment: what its matrices learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods.steps import oracle
from fgbench.methods.steps.pieces import Piece
from tests.builders import cross_entropy, tiny_batch, tiny_mlp
from tests.methods.digits import cosine, trained

MOMENTUM = 0.99
STEPS = 1000  # ten times what the matrices remember


@pytest.mark.parametrize("entries", ["gaussian", "rademacher"])
def test_feedback_of_a_linear_net_becomes_its_jacobian(entries):
    """W₃ W₂ and W₃, whatever the sample; the noise that is left is that of about 1 / (1 − momentum) steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 6), nn.Linear(6, 3)).double()
    step = methods.find(f"fdfa:entries={entries}").prepare(model, cross_entropy, seed=0)
    for _ in range(STEPS):
        step(tiny_batch(), 0.0)
    second, third = (model[i].weight.detach() for i in (2, 3))
    for learnt, true in zip(step.state()["feedback"], [third @ second, third], strict=True):
        assert cosine([learnt], [true]) > 0.97
        assert float(learnt.norm() / true.norm()) == pytest.approx(1, abs=0.1)


def test_feedback_begins_at_zero_and_keeps_the_share_of_momentum():
    """B₁ = (1 − m) E₁ and B₂ = m B₁ + (1 − m) E₂, E being the batch's mean of d ⊗ u, of W₂ u here."""
    model = tiny_mlp()
    step = methods.find("fdfa:momentum=0.75").prepare(model, cross_entropy, seed=0)
    wanted = torch.zeros(3, 5, dtype=torch.float64)
    for _ in range(2):
        step(tiny_batch(), 0.0)
        (u,) = step.noise
        d = u @ model[3].weight.detach().t()
        wanted = 0.75 * wanted + 0.25 * torch.einsum("bc,bh->ch", d, u) / len(u)
        torch.testing.assert_close(step.state()["feedback"][0], wanted, rtol=1e-12, atol=1e-14)


def test_noise_leaves_the_loss_alone_and_is_drawn_for_each_sample():
    model, batch = tiny_mlp(), tiny_batch()
    step = methods.find("fdfa").prepare(model, cross_entropy, seed=0)
    with torch.no_grad():
        loss = float(cross_entropy(model(batch[0]), batch[1]))
    assert float(step(batch, 0.0)) == pytest.approx(loss, rel=1e-12)
    (u,) = step.noise
    assert u.shape == (len(batch[0]), 5)
    assert len(u.unique()) == u.numel()


def test_the_check_finds_a_tangent_that_took_the_bias_along(monkeypatch):
    monkeypatch.setattr(Piece, "start_tangent", lambda piece, tangent: piece.layer(tangent).detach())
    with pytest.raises(oracle.WrongStepError):
        oracle.check_step(methods.find("fdfa"), tiny_mlp(), cross_entropy, tiny_batch(), seed=1)


def test_momentum_of_one_would_learn_nothing():
    with pytest.raises(UsageError, match="below 1"):
        methods.find("fdfa:momentum=1")


def test_feedback_becomes_nearly_the_gradients_on_digits():
    run = trained("fdfa", learning_rate=0.1, steps=200)
    assert run.validation_loss < 0.1 * run.first_validation_loss, run
    assert min(run.cosines) > 0.8, run
