"""A module that has two names keeps its own tensors when it is called with others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fgbench import methods
from fgbench.methods import Conditions
from fgbench.methods.steps import oracle
from fgbench.methods.steps.call_with import CallWith


def again_and_again(statistics: bool = False) -> nn.Module:
    """The idiom by which layers share their weights."""
    torch.manual_seed(0)
    layer = [nn.Linear(6, 6), *([nn.BatchNorm1d(6)] if statistics else []), nn.Tanh()]
    return nn.Sequential(nn.Linear(8, 6), *layer * 2, nn.Linear(6, 3)).double()


def held(model: nn.Module) -> dict[str, torch.Tensor]:
    tensors = (model.named_parameters, model.named_buffers)
    return {name: tensor for named in tensors for name, tensor in named(remove_duplicate=False)}


def batch() -> methods.Batch:
    torch.manual_seed(1)
    return torch.randn(6, 8, dtype=torch.float64), torch.arange(6) % 3


def test_it_gives_what_the_module_gives_with_these_tensors():
    model, other = again_and_again(), again_and_again()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    before, x = held(model), batch()[0]
    assert torch.equal(CallWith(model)(dict(other.named_parameters()), x), other(x))
    after = held(model)
    assert all(after[name] is tensor for name, tensor in before.items())


@pytest.mark.parametrize("execution", ["eager", "compile"])
@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("spec", ["forward:engine=stock", "spsa", "forward", "forward:structure=activity"])
def test_a_model_with_a_layer_of_two_names_is_trained_and_stays_itself(spec, statistics, execution):
    if execution == "compile" and (spec != "forward:engine=stock" or statistics):
        pytest.skip("only that method's compiled step calls the model with other tensors")
    model, conditions = again_and_again(statistics), Conditions(execution)
    oracle.check_step(methods.find(spec), model, cross_entropy, batch(), 0, conditions)
    before = held(model)
    start = {name: tensor.clone() for name, tensor in before.items()}
    step = methods.find(spec).prepare(model, cross_entropy, 0, conditions)
    step(batch(), 0.1)
    after = held(model)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert not any(torch.equal(after[name], start[name]) for name in after if name.endswith("weight"))


def test_a_block_may_have_a_layer_of_two_names():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.other = nn.Linear(6, 6)

        def forward(self, x):
            return self.other(self.one(x).tanh())

    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 6), Twice()), nn.Linear(6, 3)).double()
    before = held(model)
    method = methods.find("local-guess:guess=random,space=weight")
    oracle.check_step(method, model, cross_entropy, batch(), 0)
    method.prepare(model, cross_entropy, 0)(batch(), 0.1)
    assert all(held(model)[name] is tensor for name, tensor in before.items())
