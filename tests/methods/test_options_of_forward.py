"""What does not go together is refused in a line; what does changes what it should."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods import Conditions
from fgbench.specs.options import canonical
from tests.builders import cross_entropy, flat, reverse_gradient, tiny_batch, tiny_mlp, updates


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("engine=stock,tangents=2", "one tangent"),
        ("engine=stock,structure=rank-one", "one tangent"),
        ("engine=stock,clip=1", "no combine"),
        ("noise=batch", "is of structure=activity"),
        ("at=block", "is of structure=activity"),
        ("structure=activity,layers=one,at=block", "leave at=block out"),
        ("structure=activity,chunk=2", "leave chunk out"),
        ("structure=rank-one,store=seed", "leave store=seed out"),
        ("structure=fixed-angle,scale=variance", "a known second moment"),
        ("structure=rank-one,entries=gaussian,scale=variance", "a known second moment"),
        ("structure=rademacher,combine=projection,scale=variance", "needs structure gaussian"),
        ("structure=fixed-angle,angle=91", "at most 90"),
        ("layers=one,engine=stock", "perturbs all layers"),
        ("layers=one,combine=projection", "in a layer of its own"),
        ("layers=one,structure=orthonormal", "in a layer of its own"),
        ("layers=one,structure=fixed-angle", "in a layer of its own"),
        ("layers=one,scale=variance", "needs layers=all"),
        ("layers=one,sampling=adaptive,floor=2", "at most 1"),
        ("bound=5", "bound needs layers=one"),
        ("sampling=uniform", "sampling=uniform needs layers=one"),
        ("floor=0.3", "floor needs sampling=adaptive"),
        ("layers=one,floor=0.3", "floor needs sampling=adaptive"),
        ("angle=30", "angle is of structure=fixed-angle"),
        ("entries=gaussian", "entries=gaussian is of structure=rank-one and structure=activity"),
        ("chunk=4", "chunk=4 needs more than 4 tangents"),
        ("tangents=4,chunk=4", "chunk=4 needs more than 4 tangents"),
        ("tangents=0", "at least 1"),
        ("clip=-1", "at least 0"),
    ],
)
def test_contradiction_is_one_line(options, said):
    with pytest.raises(UsageError, match=said) as caught:
        methods.find(f"forward:{options}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        "angle=45,entries=rademacher,sampling=size,floor=0.1,chunk=0",
        "structure=rank-one,entries=gaussian",
        "tangents=4,structure=fixed-angle,angle=30",
        "tangents=4,chunk=3",
        "layers=one,sampling=adaptive,floor=0.3",
    ],
)
def test_an_option_is_taken_at_its_default_and_where_it_has_an_effect(options):
    assert methods.find(f"forward:{options}")


@pytest.mark.parametrize("option", ["sampling=uniform", "floor=0.3", "bound=5"])
def test_spsa_refuses_the_same_of_layers(option):
    with pytest.raises(UsageError, match=r"spsa: .* needs"):
        methods.find(f"spsa:{option}")
    assert methods.find("spsa:layers=one,sampling=adaptive,floor=0.3,bound=5")


def test_the_variants_of_a_budget_are_specs_that_are_taken():
    for spec in ("forward:tangents=16", "forward:tangents=4,layers=one,sampling=adaptive", "spsa"):
        found = list(methods.find(spec).variants(Conditions(), samples=8))
        assert len(found) > 1
        assert [methods.find(canonical(spec.partition(":")[0], own)) for own in found] == found


def test_clip_bounds_each_directional_derivative():
    gradient = flat(reverse_gradient(tiny_mlp(), tiny_batch()))
    clip = 0.5 * float(gradient.norm())
    step = methods.find(f"forward:clip={clip}").prepare(tiny_mlp(), cross_entropy, seed=0)
    bounded = 0
    for estimate in updates(step, tiny_batch(), 30):
        v = flat([t[0] for t in step.tangents.full()])
        along = float(gradient @ v)
        kept = math.copysign(min(abs(along), clip), along)
        assert float((estimate - kept * v).norm()) < 1e-9 * float(v.norm())
        bounded += kept != along
    assert 0 < bounded < 30


@pytest.mark.parametrize(
    "options",
    [
        "tangents=4",
        "structure=rademacher",
        "structure=sphere,tangents=4",
        "structure=rank-one,tangents=2",
        "structure=orthonormal,tangents=4",
        "tangents=4,combine=sum",
        "tangents=4,combine=projection",
    ],
)
def test_variance_scale_makes_the_mean_squared_length_the_gradients(options):
    """Within 4 standard errors over 4000 draws (a false alarm in 16 000)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    gradient = flat(reverse_gradient(model, tiny_batch()))
    step = methods.find(f"forward:{options},scale=variance").prepare(model, cross_entropy, seed=1)
    squares = torch.stack([e.square().sum() for e in updates(step, tiny_batch(), 4000)])
    shares = squares / gradient.square().sum()
    assert abs(float(shares.mean()) - 1) < 4 * float(shares.std()) / math.sqrt(len(shares))


def test_more_tangents_than_parameters_are_as_many_in_a_projection():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1, bias=False), nn.Linear(1, 3, bias=False)).double()
    gradient = flat(reverse_gradient(model, tiny_batch()))
    for structure in ("gaussian", "orthonormal", "rademacher"):
        spec = f"forward:tangents=50,combine=projection,structure={structure}"
        step = methods.find(spec).prepare(model, cross_entropy, seed=0)
        (estimate,) = updates(step, tiny_batch(), 1)
        assert float((estimate - gradient).norm() / gradient.norm()) < 1e-6, structure


@pytest.mark.parametrize("structure", ["rank-one", "activity"])
def test_a_model_whose_values_decide_its_course_runs_by_its_rules(structure):
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x):
            x = x.flatten(1)
            return self.layer(x if x.sum() > 0 else -x)

    step = methods.find(f"forward:structure={structure}").prepare(Branching().double(), cross_entropy, seed=0)
    losses = {float(step((sign * tiny_batch()[0].abs(), tiny_batch()[1]), 0.0)) for sign in (1, -1)}
    assert len(losses) == 1, "the other branch was not taken"
    (note,) = step.notes()
    assert note.startswith("the model's Python runs in every step (it asks for values, by "), "by rules alone"


def test_noise_that_samples_share_is_refused_where_they_meet():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    step = methods.find("forward:structure=activity,noise=batch").prepare(model, cross_entropy, seed=0)
    before = flat(list(step.parameters))
    with pytest.raises(UsageError, match="leave noise=batch out") as caught:
        step(tiny_batch(), 0.1)
    assert "\n" not in str(caught.value)
    assert torch.equal(flat(list(step.parameters)), before)


def test_activity_says_where_samples_meet():
    for norm, meet in ((nn.BatchNorm1d(5), True), (nn.LayerNorm(5), False)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), norm, nn.Linear(5, 3)).double()
        step = methods.find("forward:structure=activity").prepare(model, cross_entropy, seed=0)
        step(tiny_batch(), 0.1)
        assert any("samples depend on each other" in note for note in step.notes()) == meet
