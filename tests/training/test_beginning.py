"""What a warm-up is put back to: bit for bit the beginning, in the tensors that were there."""

from __future__ import annotations

import copy

import pytest
import torch

from fgbench.methods import Conditions
from fgbench.methods._optimizer import canonical_optimizer, make_optimizer, optimize
from fgbench.training.beginning import put_back_in_place

OPTIMIZERS = (
    *("adam", "adamw", "adamax", "nadam", "radam", "asgd", "rprop", "rmsprop", "adagrad", "adadelta"),
    *("adafactor", "sgd:momentum=0.9", "sgd:momentum=0.9,nesterov=true", "adam:amsgrad=true"),
    *("rmsprop:momentum=0.9,centered=true", "adagrad:initial_accumulator_value=0.1"),
)


def parameters() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, 4, requires_grad=True), torch.randn(5, requires_grad=True)]


def stepped(own: list[torch.Tensor], optimizer: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    """The parameters after each of so many steps down a bowl."""
    found = []
    for _ in range(steps):
        for p in own:
            p.grad = p.detach() - 1
        optimize(optimizer, 0.01)
        found.append(torch.cat([p.detach().clone().flatten() for p in own]))
    return found


@pytest.mark.parametrize("spec", [canonical_optimizer(spec) for spec in OPTIMIZERS])
def test_every_optimiser_begins_again_in_its_own_tensors(spec):
    fresh = parameters()
    wanted = stepped(fresh, make_optimizer(Conditions(optimizer=spec), fresh), 4)
    own = parameters()
    optimizer = make_optimizer(Conditions(optimizer=spec), own)
    before, weights = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in own]
    stepped(own, optimizer, 3)
    held = {(p, k): v for p in own for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)}
    assert held
    with torch.no_grad():
        for p, value in zip(own, weights, strict=True):
            p.copy_(value)
    put_back_in_place(optimizer, before)
    again = stepped(own, optimizer, 4)
    assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True))
    assert all(optimizer.state[p][name] is value for (p, name), value in held.items())


def test_an_optimiser_that_had_taken_steps_goes_on_from_them():
    own = parameters()
    optimizer = make_optimizer(Conditions(optimizer="nadam"), own)
    stepped(own, optimizer, 2)
    before, weights = copy.deepcopy(optimizer.state_dict()), [p.detach().clone() for p in own]
    wanted = stepped(own, optimizer, 2)
    with torch.no_grad():
        for p, value in zip(own, weights, strict=True):
            p.copy_(value)
    put_back_in_place(optimizer, before)
    assert all(torch.equal(a, b) for a, b in zip(stepped(own, optimizer, 2), wanted, strict=True))
