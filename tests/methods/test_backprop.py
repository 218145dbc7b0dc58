"""Backprop, both ways of updating, against plain autograd."""

from __future__ import annotations

import pytest
import torch

from fgbench import methods
from tests.builders import cross_entropy, flat, reverse_gradient, tiny_batch, tiny_mlp

SPECS = ["backprop", "backprop:update=in-backward"]


@pytest.mark.parametrize("spec", SPECS)
def test_step_is_plain_gradient_descent(spec):
    model, batch = tiny_mlp(), tiny_batch()
    before, gradient = flat(list(model.parameters())), flat(reverse_gradient(model, batch))
    methods.find(spec).prepare(model, cross_entropy, seed=0)(batch, 0.3)
    moved = flat(list(model.parameters())) - before
    assert torch.allclose(moved, -0.3 * gradient, rtol=1e-12, atol=1e-15)


def test_in_backward_equals_fused_over_several_steps_in_float64():
    trained = []
    for spec in SPECS:
        model = tiny_mlp()
        step = methods.find(spec).prepare(model, cross_entropy, seed=0)
        for _ in range(5):
            step(tiny_batch(), 0.3)
        trained.append(flat(list(model.parameters())))
    assert torch.allclose(*trained, rtol=1e-12, atol=1e-15), float((trained[0] - trained[1]).abs().max())


def test_in_backward_keeps_no_gradient():
    model = tiny_mlp()
    methods.find("backprop:update=in-backward").prepare(model, cross_entropy, seed=0)(tiny_batch(), 0.3)
    assert [p.grad for p in model.parameters()] == [None] * 4


def test_gradients_do_not_add_up_over_steps():
    model, batch = tiny_mlp(), tiny_batch()
    step = methods.find("backprop").prepare(model, cross_entropy, seed=0)
    step(batch, 0.0)
    gradient = flat(reverse_gradient(model, batch))
    step(batch, 0.0)
    assert torch.allclose(flat([p.grad for p in model.parameters()]), gradient, rtol=1e-12)
