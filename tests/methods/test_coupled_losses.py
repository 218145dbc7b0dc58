"""Losses whose rows are not the samples': methods with a derivative for each sample then share one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fgbench import methods
from fgbench.methods.steps.oracle import check_step
from tests.builders import cross_entropy


def dice(output: Tensor, target: Tensor) -> Tensor:
    return 1 - output.softmax(1)[range(len(target)), target].sum() / output.exp().sum()


def regrouped(output: Tensor, target: Tensor) -> Tensor:
    """Rows of two samples each."""
    return cross_entropy(output.view(-1, 2, output.shape[1]).transpose(1, 2), target.view(-1, 2))


def contrastive(output: Tensor, target: Tensor) -> Tensor:
    """As many rows as samples, of which each depends on all samples."""
    unit = F.normalize(output, dim=1)
    return cross_entropy(unit @ unit.T / 0.5, torch.arange(len(output)).roll(1))


def sorted_by_target(output: Tensor, target: Tensor) -> Tensor:
    """Rows of one sample each, in another order; the first one stays the first."""
    order = target.argsort()
    return cross_entropy(output[order], target[order])


@pytest.mark.parametrize(
    "spec",
    [
        *(
            f"local-guess:space={space},guess={guess}"
            for space in ("weight", "activation")
            for guess in ("local", "random")
        ),
        "forward:structure=activity",
        "forward:structure=activity,at=block",
        "forward:tangents=3,structure=activity,at=block,combine=projection",
    ],
)
@pytest.mark.parametrize("loss", [cross_entropy, dice, regrouped, contrastive, sorted_by_target])
def test_a_step_is_right_and_a_note_says_whether_samples_share_a_derivative(loss, spec):
    torch.manual_seed(0)
    layers = nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)
    model, batch = nn.Sequential(*layers).double(), (torch.randn(4, 8).double(), torch.tensor([0, 3, 1, 1]))
    check_step(methods.find(spec), model, loss, batch, seed=1)
    step = methods.find(spec).prepare(model, loss, 1)
    step.get_ready(batch)
    step(batch, 0.0)
    shared = any("the whole batch shares one derivative" in note for note in step.notes())
    assert shared == (loss is not cross_entropy)
