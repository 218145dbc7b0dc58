"""Backprop, all ways of updating, against plain autograd and torch.optim."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.measurement.memory import peak_of_step
from fgbench.methods import Conditions
from fgbench.methods.steps import oracle
from fgbench.methods.steps.optimizer import _usable, canonical_optimizer
from tests.builders import cross_entropy, flat, reverse_gradient, tiny_batch, tiny_mlp

UPDATES = ("fused", "foreach", "direct", "in-backward")
SPECS = [f"backprop:update={update}" for update in UPDATES]
MICRO_BATCHES = [
    f"{spec}{more}" for spec in SPECS for more in (",accumulate=4", ",accumulate=3,checkpoint=true")
]  # of six samples: cut evenly, and not
OPTIMIZERS = [name.lower() for name, kind in vars(torch.optim).items() if _usable(kind)]


def weights_after(spec: str, optimizer: str = "sgd", steps: int = 5) -> torch.Tensor:
    model = tiny_mlp()
    step = methods.find(spec).prepare(model, cross_entropy, 0, Conditions(optimizer=optimizer))
    for _ in range(steps):
        step(tiny_batch(), 0.01)
    return flat(list(model.parameters()))


@pytest.mark.parametrize("spec", [*SPECS, *MICRO_BATCHES])
def test_step_is_plain_gradient_descent(spec):
    model, batch = tiny_mlp(), tiny_batch()
    before, gradient = flat(list(model.parameters())), flat(reverse_gradient(model, batch))
    methods.find(spec).prepare(model, cross_entropy, seed=0)(batch, 0.3)
    moved = flat(list(model.parameters())) - before
    assert torch.allclose(moved, -0.3 * gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("spec", [*SPECS, *MICRO_BATCHES])
def test_every_update_is_the_same_over_several_steps_in_float64(spec):
    assert torch.allclose(weights_after(spec), weights_after(SPECS[0]), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "sgd:momentum=0.9,weight_decay=5e-4,nesterov=true"])
@pytest.mark.parametrize("update", ["foreach", "in-backward"])
def test_every_optimisers_updates_are_the_same_over_several_steps_in_float64(update, optimizer):
    """One optimiser for each parameter is exact: none that is taken looks at two parameters."""
    own = weights_after(f"backprop:update={update}", optimizer)
    rounding = 1e-9 if update == "foreach" else 1e-14  # torch's foreach ASGD has its step size in float32
    assert torch.allclose(own, weights_after(SPECS[0], optimizer), rtol=1e-10, atol=rounding)


def test_what_an_optimiser_in_the_backward_pass_remembers_is_stored_and_restored():
    conditions = Conditions(optimizer="adam")
    model, other = tiny_mlp(), tiny_mlp()
    step, again = (
        methods.find("backprop:update=in-backward").prepare(m, cross_entropy, 0, conditions)
        for m in (model, other)
    )
    for _ in range(3):
        step(tiny_batch(), 0.01)
    other.load_state_dict(model.state_dict())
    again.optimizer.load_state_dict(copy.deepcopy(step.optimizer.state_dict()))
    for one in (step, again):
        one(tiny_batch(), 0.01)
    assert torch.equal(flat(list(model.parameters())), flat(list(other.parameters())))
    assert len(step.optimizer.state) == 4


@pytest.mark.parametrize("update", UPDATES)
def test_an_update_that_was_chosen_is_the_one_that_is_taken(update):
    best, fixed = methods.find("backprop"), methods.find(f"backprop:update={update}")
    assert update in best.updates(Conditions())
    assert fixed.updates(Conditions()) == ()
    chosen = best.prepare(tiny_mlp(), cross_entropy, 0, Conditions(update=update))
    asked = fixed.prepare(tiny_mlp(), cross_entropy, 0)
    assert type(chosen) is type(asked)
    oracle.check_step(best, tiny_mlp(), cross_entropy, tiny_batch(), 0, Conditions(update=update))


def test_the_updates_to_choose_from_are_those_that_the_optimiser_has():
    find = methods.find("backprop").updates
    assert find(Conditions()) == UPDATES
    assert find(Conditions(optimizer="sgd:momentum=0.9")) == ("fused", "foreach", "in-backward")
    assert find(Conditions(optimizer="rmsprop")) == ("foreach", "in-backward"), "it has no fused kernel"
    assert methods.find("backprop:checkpoint=true").updates(Conditions()) == UPDATES


def test_segments_want_checkpointing():
    with pytest.raises(UsageError, match="segments=sqrt needs checkpoint=true"):
        methods.find("backprop:segments=sqrt")
    for spec in ("backprop", "backprop:checkpoint=true,segments=sqrt"):
        assert list(methods.find(spec).variants(Conditions(), samples=8)), "none of them is refused"


def test_a_direct_update_wants_plain_sgd():
    method = methods.find("backprop:update=direct")
    with pytest.raises(UsageError, match="plain SGD"):
        method.prepare(tiny_mlp(), cross_entropy, 0, Conditions(optimizer=canonical_optimizer("Adam")))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_in_backward_keeps_no_gradient(optimizer):
    model, conditions = tiny_mlp(), Conditions(optimizer=optimizer)
    method = methods.find("backprop:update=in-backward")
    method.prepare(model, cross_entropy, 0, conditions)(tiny_batch(), 0.3)
    assert [p.grad for p in model.parameters()] == [None] * 4


def test_gradients_do_not_add_up_over_steps():
    model, batch = tiny_mlp(), tiny_batch()
    step = methods.find("backprop:update=fused").prepare(model, cross_entropy, seed=0)
    step(batch, 0.0)
    gradient = flat(reverse_gradient(model, batch))
    step(batch, 0.0)
    assert torch.allclose(flat([p.grad for p in model.parameters()]), gradient, rtol=1e-12)


@pytest.mark.parametrize("spec", MICRO_BATCHES)
def test_micro_batches_take_adams_step_and_report_the_batchs_loss(spec):
    if "direct" in spec:
        return  # of plain SGD
    own = weights_after(spec, "adam")
    assert torch.allclose(own, weights_after(SPECS[0], "adam"), rtol=1e-10)
    model, batch = tiny_mlp(), tiny_batch()
    wanted = float(cross_entropy(model(batch[0]), batch[1]).detach())
    assert float(methods.find(spec).prepare(model, cross_entropy, 0)(batch, 0.0)) == pytest.approx(wanted)


def test_micro_batches_live_one_after_the_other():
    """What a step needs beside parameters and gradients goes down with the size of a micro-batch."""

    def passing(spec: str) -> int:
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(8)))
        batch = torch.randn(4096, 16), torch.randint(16, (4096,))
        step = methods.find(spec).prepare(model, cross_entropy, 0)
        return peak_of_step(lambda: lambda: step(batch, 0.1), torch.device("cpu")).allocated

    whole, eighth = passing("backprop"), passing("backprop:accumulate=8")
    assert eighth < whole / 4, (eighth, whole)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(5), nn.BatchNorm1d(5, track_running_stats=False).eval()])
def test_micro_batches_are_refused_where_batch_statistics_make_them_another_function(norm):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), norm)
    with pytest.raises(
        UsageError, match=r"accumulate=2: '2' normalises by the statistics of a whole batch"
    ) as said:
        methods.find("backprop:accumulate=2").prepare(model, cross_entropy, 0)
    assert "\n" not in str(said.value)


def test_frozen_batch_statistics_are_no_obstacle():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.BatchNorm1d(3)).double()
    model[2].eval()
    oracle.check_step(methods.find("backprop:accumulate=2"), model, cross_entropy, tiny_batch(), 0)


def test_more_micro_batches_than_samples_are_refused():
    with pytest.raises(UsageError, match="accumulate=7: a batch has only 6 samples"):
        methods.find("backprop:accumulate=7").prepare(tiny_mlp(), cross_entropy, 0)(tiny_batch(), 0.1)
