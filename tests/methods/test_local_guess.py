"""Local guesses against a simulation in reverse mode, and what they are worth while training."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods import Batch, Conditions
from fgbench.methods.local_guess import STILL, TRAINED
from fgbench.methods.steps import oracle
from tests.builders import cross_entropy, flat, reverse_gradient, updates
from tests.methods.blockwise import (
    small_batch,
    small_convnet,
    small_mlp,
    small_resnet,
    trained_on_digits,
)

TARGETS = ("global", "local")
GUESSES = ("random", "rademacher", "local", "ntk", "fixed-ntk")
SPACES = ("weight", "batch-weight", "batch-tensor", "activation")
SHARED = ("batch-weight", "batch-tensor")  # the whole batch has the same weights
RATE = 0.5


def prepared(spec: str, model: nn.Module, seed: int = 0, **conditions: str):
    return methods.prepare(methods.find(spec), model, cross_entropy, seed, Conditions(**conditions))


def spec_of(target: str = "global", guess: str = "local", space: str = "batch-weight", **more: object) -> str:
    options = {"target": target, "guess": guess, "space": space, **more}
    return "local-guess:" + ",".join(f"{name}={value}" for name, value in options.items())


# ---- the simulation: all by reverse mode, sample by sample, with the model cut by hand


def mlp_by_hand(model: nn.Module) -> list[nn.Module]:
    return [model[:3], model[3:5], model[5:7], model[7:]]


def convnet_by_hand(model: nn.Module) -> list[nn.Module]:
    return [model[:3], model[3:7], model[7:]]


def gradient_in(space: str, part: nn.Module, x: Tensor, loss) -> list[Tensor]:
    """Of `loss(output)` with respect to a part's weights, every sample's own weights, or its output."""
    if space in SHARED:
        return list(torch.autograd.grad(loss(part(x)), list(part.parameters())))
    if space == "activation":
        output = part(x).detach().requires_grad_()
        return list(torch.autograd.grad(loss(output), output))
    own = [{n: p.detach().clone().requires_grad_() for n, p in part.named_parameters()} for _ in x]
    output = torch.cat([functional_call(part, p, (x[i : i + 1],)) for i, p in enumerate(own)])
    by_sample = torch.autograd.grad(loss(output), [p for held in own for p in held.values()])
    return [torch.stack(by_sample[i :: len(own[0])]) for i in range(len(own[0]))]


def projected(options, part: nn.Module, x: Tensor, target, guess, together: bool) -> list[Tensor]:
    """⟨T, G⟩ / ‖G‖² · G as a gradient of the part's weights; with scale=none not divided by ‖G‖²."""
    space, divided = options.space, options.scale == "projection"
    if space == "batch-tensor":
        along = [(t * g).sum() * g for t, g in zip(target, guess, strict=True)]
        return [a / g.square().sum() if divided else a for a, g in zip(along, guess, strict=True)]
    samples = [slice(None)] if together or space in SHARED else [slice(i, i + 1) for i in range(len(x))]
    along = [torch.zeros_like(g) for g in guess]
    for rows in samples:
        product = sum(float((t[rows] * g[rows]).sum()) for t, g in zip(target, guess, strict=True))
        squared = sum(float(g[rows].square().sum()) for g in guess) if divided else 1.0
        for into, g in zip(along, guess, strict=True):
            into[rows] = product / squared * g[rows]
    if space in SHARED:
        return along
    if space == "weight":
        return [a.sum(0) for a in along]
    return list(torch.autograd.grad(part(x), list(part.parameters()), along[0]))


def simulated(step, model: nn.Module, parts: list[nn.Module], batch: Batch, together: list[bool]) -> Tensor:
    options, (x, y) = step.options, batch
    found: list[Tensor] = []
    for index, part in enumerate(parts[:-1]):
        rest = nn.Sequential(*parts[index + 1 :])

        def auxiliary(role: str, index: int = index):
            return lambda output: cross_entropy(step.auxiliaries[role].networks[index](output), y)

        def end(output: Tensor, rest: nn.Module = rest) -> Tensor:
            return cross_entropy(rest(output), y)

        target = gradient_in(
            options.space, part, x, end if options.target == "global" else auxiliary(TRAINED)
        )
        guess = step.guesses[index]
        if options.guess not in ("random", "rademacher"):
            role = TRAINED if options.guess == "local" else STILL
            guess = gradient_in(options.space, part, x, auxiliary(role))
        found += projected(options, part, x, target, guess, together[index])
        x = part(x).detach()
    found += torch.autograd.grad(cross_entropy(parts[-1](x), y), list(parts[-1].parameters()))
    return flat(found)


def off_simulation(spec: str, model: nn.Module, by_hand, together: list[bool]) -> float:
    """By what share a step's estimate is off the simulation's; the second step, auxiliaries trained once."""
    batch = small_batch()
    step = prepared(spec, model)
    step(batch, RATE)
    before = copy.deepcopy(model)
    step(batch, RATE)
    moved = (flat(list(before.parameters())) - flat(list(model.parameters()))) / RATE
    wanted = simulated(step, before, by_hand(before), batch, together)
    return float((moved - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("target", TARGETS)
def test_its_estimate_is_that_of_the_simulation(target, guess, space):
    for build, by_hand, kinds in (
        (small_mlp, mlp_by_hand, ("linear", "mlp")),
        (small_convnet, convnet_by_hand, ("linear", "mlp", "cnn")),
    ):
        for aux in kinds:
            spec = spec_of(target, guess, space, aux=aux)
            off = off_simulation(spec, build(), by_hand, [target == "local"] * 3)
            assert off < 1e-9, (build.__name__, aux)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("guess", ["random", "rademacher"])
def test_random_guesses_that_are_not_scaled_are_those_of_the_simulation(guess, space):
    for target in TARGETS:
        spec = spec_of(target, guess, space, scale="none")
        assert off_simulation(spec, small_convnet(), convnet_by_hand, [target == "local"] * 3) < 1e-9
        assert methods.find(spec).unbiased == (target == "global")


@pytest.mark.parametrize("space", ["batch-weight", "batch-tensor", "activation"])
@pytest.mark.parametrize("guess", ["rademacher", "local"])
def test_samples_share_a_derivative_just_where_batch_statistics_are_behind_the_block(guess, space):
    spec, model = spec_of(guess=guess, space=space), small_convnet(normalised=True)
    assert off_simulation(spec, model, convnet_by_hand, [True, False]) < 1e-9


def test_a_first_batch_of_one_sample_does_not_make_later_ones_share_a_derivative():
    step, (x, y) = prepared(spec_of(guess="random", space="activation"), small_mlp()), small_batch()
    seen = []
    for size in (1, len(x)):
        step((x[:size], y[:size]), 0.1)
        seen.append(step.together)
    assert seen == [[True] * 3, [False] * 3]


@pytest.mark.parametrize("space", ["batch-weight", "batch-tensor", "activation"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("blocks", [2, 4])
def test_residual_networks_and_their_halves(blocks, target, space):
    for guess, aux in (("random", "linear"), ("local", "cnn"), ("ntk", "mlp")):
        method = methods.find(spec_of(target, guess, space, aux=aux, blocks=blocks))
        oracle.check_step(method, small_resnet(), cross_entropy, small_batch(), 1)


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) * (1.0 if len(x) else 0.0)


@pytest.mark.parametrize("space", SPACES)
def test_what_torch_fx_cannot_trace_runs_all_the_same(space):
    torch.manual_seed(0)
    layers = nn.Linear(64, 8), Untraceable(), Untraceable(), nn.Linear(8, 3)
    model = nn.Sequential(nn.Flatten(), *layers).double()
    oracle.check_step(methods.find(spec_of(space=space)), model, cross_entropy, small_batch(), 1)


@pytest.mark.parametrize("guess", ["rademacher", "local"])
@pytest.mark.parametrize("space", ["batch-weight", "batch-tensor", "activation"])
@pytest.mark.parametrize("target", TARGETS)
def test_dropout_drops_the_same_units_on_every_way_through_a_block(target, space, guess):
    torch.manual_seed(0)
    hidden = (m for _ in range(3) for m in (nn.Linear(16, 16), nn.Dropout(0.4), nn.Tanh()))
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.3), *hidden, nn.Linear(16, 3), nn.Dropout(0.3)
    ).double()
    oracle.check_step(methods.find(spec_of(target, guess, space)), model, cross_entropy, small_batch(), 1)


@pytest.mark.parametrize("guess", ["random", "local"])
@pytest.mark.parametrize("space", ["batch-weight", "batch-tensor", "activation"])
@pytest.mark.parametrize("target", TARGETS)
def test_running_statistics_move_once_a_step(target, space, guess):
    model, reference = small_resnet(), small_resnet()
    prepared(spec_of(target, guess, space), model)(small_batch(), 0.0)
    reference(small_batch()[0])
    assert torch.allclose(flat(list(model.buffers())), flat(list(reference.buffers())), rtol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_frozen_parameters_stay(space):
    model = small_mlp()
    for parameter in (model[1].weight, model[3].bias, model[5].weight, model[5].bias):
        parameter.requires_grad_(False)
    oracle.check_step(methods.find(spec_of(space=space)), model, cross_entropy, small_batch(), 1)


# ---- guesses


def test_a_local_guess_for_a_local_target_is_the_local_loss():
    one, other = small_convnet(), small_convnet()
    steps = prepared(spec_of("local", "local"), one), prepared("local-losses", other)
    for _ in range(3):
        for step in steps:
            step(small_batch(), 0.1)
    assert torch.allclose(flat(list(one.parameters())), flat(list(other.parameters())), rtol=1e-9)


def test_n_times_the_mean_along_random_guesses_is_the_gradient():
    """Exact for directions that are uniform on a sphere, as normalised Gaussian ones are; z-tests."""
    draws, model = 2000, nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Linear(1, 3)).double()
    step = prepared(spec_of(guess="random"), model)
    gradient = flat(reverse_gradient(model, small_batch()))[:65]
    estimates = 65 * torch.stack(list(updates(step, small_batch(), draws)))[:, :65]
    z = (estimates.mean(0) - gradient) / (estimates.std(0) / draws**0.5)
    assert float(z.abs().max()) < 4.5


@pytest.mark.parametrize(
    ("guess", "changes"), [("local", {TRAINED: True}), ("ntk", {STILL: True}), ("fixed-ntk", {STILL: False})]
)
def test_which_auxiliary_networks_change_from_batch_to_batch(guess, changes):
    step, seen = prepared(spec_of(guess=guess), small_mlp()), []
    for _ in range(2):
        step(small_batch(), 0.1)
        seen.append({r: flat(list(a.networks.parameters())) for r, a in step.auxiliaries.items()})
    assert {role: not torch.equal(seen[0][role], seen[1][role]) for role in seen[0]} == changes


def alignment(step, gradient: list[Tensor], model: nn.Module, batch: Batch) -> list[float]:
    """The cosine of guess and target for each block but the last, in the space that is perturbed."""

    def product(one, other) -> float:
        return float(step.space.inner(one, other).detach().double().sum())

    _, targets, _ = step.targets(gradient, model, batch)
    pairs = list(zip(targets, step.guesses, strict=True))
    return [product(t, g) / (product(t, t) * product(g, g)) ** 0.5 for t, g in pairs]


def test_local_guesses_point_with_the_gradient_and_random_ones_do_not():
    cosines = {}
    for guess in ("local", "random"):
        step, model, batch, losses = trained_on_digits(spec_of(guess=guess), 120, 0.1)
        before = copy.deepcopy(model)
        step(batch, 0.0)
        cosines[guess] = alignment(step, reverse_gradient(before, batch), before, batch)
        assert losses[-1] < losses[0]
    assert min(cosines["local"]) > 0.1, cosines
    assert max(map(abs, cosines["random"])) < 0.1, cosines


@pytest.mark.parametrize("space", SPACES)
def test_a_guess_is_aligned_with_itself(space):
    """With the end-to-end loss's own slope as the guess the cosine is 1, and the step is backprop's."""
    model = small_mlp()
    step = prepared(spec_of(guess="random", space=space), model)
    gradient = reverse_gradient(model, small_batch())
    step(small_batch(), 0.0)
    _, targets, _ = step.targets(gradient, model, small_batch())
    step.guesses = targets
    assert alignment(step, gradient, model, small_batch()) == pytest.approx([1.0] * 3)
    estimate = step.expected(gradient, model, small_batch())
    assert torch.allclose(flat(estimate), flat(gradient), rtol=1e-9)


@pytest.mark.parametrize("spec", [spec_of(), spec_of(space="activation"), spec_of("local", "ntk", aux="mlp")])
def test_training_lowers_the_loss(spec):
    _, _, _, losses = trained_on_digits(spec, 100, 0.1)
    assert losses[-1] < 0.6 * losses[0], losses[-1]


# ---- what it says


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.Dropout(0.1)])
def test_weights_of_each_sample_want_samples_that_do_not_meet(layer):
    layers = nn.Linear(64, 8), layer, nn.Linear(8, 8), nn.Linear(8, 3)
    step = prepared(spec_of(space="weight"), nn.Sequential(nn.Flatten(), *layers).double())
    with pytest.raises(UsageError, match="space=batch-weight or space=activation"):
        step(small_batch(), 0.1)


def test_guesses_that_have_a_length_of_their_own_are_scaled() -> None:
    with pytest.raises(
        UsageError, match="scale=none is for guess=random and guess=rademacher, and guess=ntk"
    ):
        methods.find(spec_of(guess="ntk", scale="none"))


@pytest.mark.parametrize("execution", ["compile", "cudagraph"])
def test_other_execution_modes_are_refused(execution):
    with pytest.raises(UsageError, match="runs eagerly"):
        prepared("local-guess", small_mlp(), execution=execution)


def test_notes_say_that_samples_depend_on_each_other_only_where_they_have_derivatives_of_their_own():
    met = {}
    for space in ("batch-weight", "activation"):
        step = prepared(spec_of(space=space, blocks=2), small_convnet(True))
        step(small_batch(), 0.1)
        met[space] = step.notes()
    assert met == {
        "batch-weight": [],
        "activation": ["samples depend on each other: the whole batch shares one derivative"],
    }


@pytest.mark.parametrize(
    ("spec", "queries"),
    [
        (spec_of(), 1 + 2 + 4),
        (spec_of(guess="random"), 1 + 1 + 4),
        (spec_of(guess="random", space="activation", blocks=16), 1 + 2 + 8),
        (spec_of("local"), 1 + 2 + 1),
        (spec_of(space="batch-tensor"), 1 + 2 + 8),
    ],
)
def test_queries_are_the_value_reverse_mode_and_the_tangents_way(spec, queries):
    assert methods.find(spec).queries == queries
