"""What a warm-up is put back to: bit for bit the beginning, in the tensors that were there."""

from __future__ import annotations

import pytest
import torch

from fgbench import methods
from fgbench.methods import Conditions, Step
from fgbench.methods.steps.optimizer import canonical_optimizer
from fgbench.training.beginning import Beginning
from tests.builders import cross_entropy, flat, tiny_batch, tiny_mlp

OPTIMIZERS = (
    *("adam", "adamw", "adamax", "nadam", "radam", "asgd", "rprop", "rmsprop", "adagrad", "adadelta"),
    *("adafactor", "sgd:momentum=0.9", "sgd:momentum=0.9,nesterov=true", "adam:amsgrad=true"),
    *("rmsprop:momentum=0.9,centered=true", "adagrad:initial_accumulator_value=0.1"),
)


def trained(model: torch.nn.Module, step: Step, steps: int) -> list[torch.Tensor]:
    """The parameters after each of so many steps."""
    found = []
    for _ in range(steps):
        step(tiny_batch(torch.float32), 0.01)
        found.append(flat(list(model.parameters())))
    return found


@pytest.mark.parametrize("begun", [0, 2])
@pytest.mark.parametrize("optimizer", [canonical_optimizer(spec) for spec in OPTIMIZERS])
def test_every_optimiser_goes_on_as_if_the_steps_had_not_been(optimizer, begun):
    model = tiny_mlp(dtype=torch.float32)
    step = methods.prepare(
        methods.find("backprop"), model, cross_entropy, 0, Conditions(optimizer=optimizer, update="foreach")
    )
    trained(model, step, begun)
    beginning = Beginning(model, step)
    wanted = trained(model, step, 3)
    beginning.put_back()
    again = trained(model, step, 3)
    assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True))
