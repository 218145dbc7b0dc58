"""Noise on activities: what a step tells of its derivatives, with a parameter that belongs to no layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fgbench import methods
from tests.builders import cross_entropy, tiny_batch


class Shifted(nn.Module):
    """A layer, and a parameter of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) + self.shift


@pytest.mark.parametrize("optimizer", ["sgd", "sgd:momentum=0.9"])
def test_the_derivatives_that_it_tells_are_each_samples_own_and_weighed_once_for_the_rest(
    optimizer, monkeypatch
):
    spec = "forward:structure=activity,tangents=2,clip=0.1"
    conditions = methods.Conditions(optimizer=optimizer)
    step = methods.find(spec).prepare(Shifted().double(), cross_entropy, 0, conditions)
    batch, calls = tiny_batch(), []
    step(batch, 0.1)
    weigh = step._weigh
    monkeypatch.setattr(step, "_weigh", lambda by_sample: calls.append(by_sample.shape) or weigh(by_sample))
    step(batch, 0.1)
    assert set(step.free) == {"shift"}
    assert calls == [(2, 1), (2, len(batch[0]))], "the whole batch's once, and each sample's once"
    assert step.measured.shape == (2, len(batch[0]))
