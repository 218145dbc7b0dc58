"""Noise on activities: a step's derivatives, and projections of each sample's gradient by its activities."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fgbench import methods
from fgbench.methods.steps.oracle import check_step
from fgbench.methods.steps.spaces import samples_meet
from fgbench.pushforward.additions import Outer, additions
from fgbench.training.randomness import OwnRandomness
from tests.builders import cross_entropy, flat, tiny_batch, updates


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


def test_what_the_last_pass_went_through_is_gone_before_the_next_one(monkeypatch):
    step = methods.find("forward:structure=activity,tangents=2").prepare(Shifted(), cross_entropy, 0)
    batch, alive = tiny_batch(torch.float32), []
    step(batch, 0.1)
    last, run = weakref.ref(step.sites[0]), step.pushforward.run
    monkeypatch.setattr(step.pushforward, "run", lambda *given: alive.append(last()) or run(*given))
    step(batch, 0.1)
    assert alive == [None], "on a GPU it is as much memory as the pass itself takes"


def test_what_is_kept_of_a_layers_input_does_not_keep_its_tangents():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3))
    step = methods.find("forward:structure=activity,tangents=4").prepare(model, cross_entropy, 0)
    step(tiny_batch(torch.float32), 0.1)
    moved = step.sites[1].arguments[0]
    assert moved.untyped_storage().nbytes() == moved.numel() * moved.element_size()


class OwnLoss(Shifted):
    """A model that gives its loss, asks for gradients on its way, and looks up its places with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(3, 3, padding_idx=0)
        nn.init.normal_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        h = super().forward(x).requires_grad_() + self.places(torch.arange(len(x)) % 3)
        return cross_entropy(h * self.shift, torch.arange(len(x)) % 3)


@pytest.mark.parametrize("option", ["", ",tangents=2", ",layers=one"])
def test_a_model_that_gives_its_loss_is_checked(option):
    torch.manual_seed(0)
    method = methods.find(f"forward:structure=activity{option}")
    check_step(method, OwnLoss().double(), lambda output, target: output, tiny_batch(), 0)


class Scaled(nn.Module):
    """Batch statistics, and a parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.scale = nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) * self.scale


def test_a_model_with_running_statistics_and_a_parameter_of_no_layer_is_checked():
    torch.manual_seed(0)
    batch = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    check_step(methods.find("forward:structure=activity"), Scaled().double(), F.cross_entropy, batch, 0)


class Sign(torch.autograd.Function):
    """Has no forward mode; its backward pass lets gradients through."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.sign()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope


class Signed(nn.Linear):
    """Weights of plus and minus one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Sign.apply(self.weight), self.bias)


class Twofold(nn.Module):
    """Gives a second output, which does not move."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), x.sum(1)


WITHOUT_FORWARD_MODE = {
    "spectral norm": lambda: spectral_norm(nn.Linear(5, 4)),  # with a step of its power iteration
    "function of a user's": lambda: Signed(5, 4),
}


@pytest.mark.parametrize("name", WITHOUT_FORWARD_MODE)
def test_what_has_no_forward_mode_in_pytorch_is_checked(name):
    torch.manual_seed(0)
    model = Twofold(nn.Sequential(WITHOUT_FORWARD_MODE[name](), nn.Dropout(0.3), nn.SiLU(), nn.Linear(4, 3)))
    batch = torch.randn(4, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    method = methods.find("forward:structure=activity,tangents=2")
    check_step(method, model.double(), lambda out, target: F.cross_entropy(out[0], target), batch, 0)


# ---- projections, against dense algebra on the true gradient


class Tokens(nn.Module):
    """Layers on the tokens of sequences of four, in an order of dimensions that is asked for."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), 4, 4)
        swapped = "tokens first" in self.order
        x = x.transpose(0, 1) if swapped else x
        shape = x.shape[:2]
        x = x.reshape(-1, 4) if "rows" in self.order else x
        x = self.second(torch.tanh(self.first(x))).view(*shape, 3)
        return x.mean(0 if swapped else 1)

    def of_sample(self, tensor: Tensor, sample: int, samples: int) -> Tensor:
        """Its part of [*output], flat."""
        swapped = "tokens first" in self.order
        if "rows" in self.order:
            tensor = tensor.view(*((4, samples) if swapped else (samples, 4)), -1)
        return (tensor[:, sample] if swapped else tensor[sample]).flatten()


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 3)
    )


MODELS = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)
    ),
    "cnn": convolutional,
    "free parameter": Shifted,
    **{
        order: lambda order=order: Tokens(order)
        for order in ("samples first", "tokens first", "rows", "rows, tokens first")
    },
}


def projected(model: nn.Module, batch: methods.Batch, step: methods.Step) -> dict[str, Tensor]:
    """Each sample's gradient by all that is perturbed, projected by dense algebra, through the chain rule."""
    layers = [m for m in model.modules() if list(m.parameters(recurse=False)) and not isinstance(m, Shifted)]
    outputs: list[Tensor] = []
    hooks = [layer.register_forward_hook(lambda *call: outputs.append(call[2])) for layer in layers]
    output, samples = model(batch[0]), len(batch[0])
    for hook in hooks:
        hook.remove()
    slopes = torch.autograd.grad(cross_entropy(output, batch[1]), [*outputs, output], retain_graph=True)
    of_sample = getattr(model, "of_sample", lambda tensor, sample, samples: tensor[sample].flatten())
    estimates = [torch.zeros_like(z) for z in outputs]
    found = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for sample in range(samples):
        tangents = torch.stack(
            [
                torch.cat(
                    [of_sample(site.noise[i], sample, samples) for site in step.sites]
                    + [t.full()[i].flatten() for t in step.free.values()]
                )
                for i in range(step.options.tangents)
            ]
        )
        free = [slopes[-1][sample]] * len(step.free)  # by what is added to the output
        gradient = torch.cat([of_sample(s, sample, samples) for s in slopes[:-1]] + free)
        basis, _ = torch.linalg.qr(tangents.t())
        pieces = (basis @ (basis.t() @ gradient)).split(
            [of_sample(z, sample, samples).numel() for z in outputs] + [s.numel() for s in free]
        )
        for estimate, piece in zip(estimates, pieces, strict=False):
            place = of_sample(torch.arange(estimate.numel()).view(estimate.shape), sample, samples)
            estimate.view(-1)[place] = piece
        for name, piece in zip(step.free, pieces[len(outputs) :], strict=True):
            found[name] += piece
    names = {id(p): name for name, p in model.named_parameters()}
    for layer, z, estimate in zip(layers, outputs, estimates, strict=True):
        own = list(layer.parameters(recurse=False))
        for p, g in zip(own, torch.autograd.grad(z, own, estimate, retain_graph=True), strict=True):
            found[names[id(p)]] += g
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("noise", ["sample", "batch"])
@pytest.mark.parametrize(
    ("count", "entries", "optimizer"),
    [(1, "rademacher", "sgd"), (3, "gaussian", "sgd:momentum=0.9"), (8, "gaussian", "sgd")],
)
def test_projection_is_the_dense_one_of_each_samples_activity_gradient(
    name, noise, count, entries, optimizer
):
    torch.manual_seed(0)
    model, batch = MODELS[name]().double(), tiny_batch()
    spec = f"forward:tangents={count},structure=activity,entries={entries},noise={noise},combine=projection"
    conditions = methods.Conditions(optimizer=optimizer)
    step = methods.find(spec).prepare(model, cross_entropy, 1, conditions)
    *_, estimate = updates(
        step, batch, 2 if optimizer == "sgd" else 1
    )  # in memory of its own from the second
    wanted = flat(list(projected(model, batch, step).values()))
    assert float((estimate - wanted).norm() / wanted.norm()) < 1e-9
    kept = {site.noise.stride()[1] == 0 or site.layout.dim == 1 for site in step.sites}
    assert name != "mlp" or kept == {noise == "batch"}, "noise that samples share is held once"


def test_more_tangents_than_units_give_the_gradient_itself():
    for noise in ("sample", "batch"):
        torch.manual_seed(0)
        model, batch = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double(), tiny_batch()
        spec = f"forward:tangents=9,structure=activity,noise={noise},combine=projection"
        step = methods.find(spec).prepare(model, cross_entropy, 1)
        (estimate,) = updates(step, batch, 1)
        wanted = flat(torch.autograd.grad(cross_entropy(model(batch[0]), batch[1]), list(model.parameters())))
        assert float((estimate - wanted).norm() / wanted.norm()) < 1e-9, noise


# ---- what the authors of the multi-tangent paper simulate, on the same tangents


def simulated(weights: list, biases: list, x, y, tangents: list, way: str, at: str) -> list:
    """Their update of a ReLU network on the tangents of each layer, [k, units]; in NumPy, by backprop.

    The gradient by the activities of each sample is replaced by what k derivatives along shared tangents
    say of it, over all layers together, and goes on to weights and biases through each layer's inputs. Their
    activities are at=block, behind the ReLU.
    """
    inputs, before = [x], []
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        before.append(inputs[-1] @ weight.T + bias)
        inputs.append(before[-1] if layer == len(weights) - 1 else np.maximum(before[-1], 0))
    shifted = np.exp(before[-1] - before[-1].max(1, keepdims=True))
    slope = shifted / shifted.sum(1, keepdims=True)
    slope[np.arange(len(y)), y] -= 1
    on = [b > 0 for b in before[:-1]] + [np.ones_like(slope)]  # units that the ReLU leaves on
    behind = [slope / len(y)]
    for layer in range(len(weights) - 1, 0, -1):
        behind.insert(0, (behind[0] * on[layer]) @ weights[layer])
    slopes = behind if at == "block" else [s * o for s, o in zip(behind, on, strict=True)]
    whole, directions = np.concatenate(slopes, 1), np.concatenate(tangents, 1)
    along = whole @ directions.T
    if way == "mean":
        estimate = along @ directions / len(directions)
    else:
        estimate = np.stack([np.linalg.lstsq(directions.T, s, rcond=None)[0] @ directions for s in whole])
    pieces = np.split(estimate, np.cumsum([s.shape[1] for s in slopes])[:-1], 1)
    if at == "block":
        pieces = [piece * o for piece, o in zip(pieces, on, strict=True)]
    return [part for piece, h in zip(pieces, inputs, strict=False) for part in (piece.T @ h, piece.sum(0))]


@pytest.mark.parametrize("way", ["mean", "projection"])
@pytest.mark.parametrize("count", [1, 4, 16])
@pytest.mark.parametrize("samples", [2, 12])
@pytest.mark.parametrize("at", ["layer", "block"])
def test_it_is_the_update_that_the_papers_authors_simulate(way, count, samples, at):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(9, 20), nn.ReLU(), nn.Linear(20, 15), nn.ReLU(), nn.Linear(15, 4)
    )
    model.double()
    x, y = torch.randn(samples, 1, 3, 3).double(), torch.randint(0, 4, (samples,))
    spec = f"forward:tangents={count},structure=activity,entries=gaussian,noise=batch,at={at},combine={way}"
    step = methods.find(spec).prepare(model, cross_entropy, 2)
    weights, biases = ([p.detach().numpy().copy() for p in model.parameters()][i::2] for i in (0, 1))
    (estimate,) = updates(step, (x, y), 1)
    drawn = step.drawn if at == "block" else [site.noise[:, 0] for site in step.sites]
    wanted = simulated(weights, biases, x.flatten(1).numpy(), y.numpy(), [d.numpy() for d in drawn], way, at)
    wanted = torch.cat([torch.from_numpy(part).flatten() for part in wanted])
    assert float((estimate - wanted).norm() / wanted.norm()) < 1e-9
    if at == "layer":
        outers = [a for _, a in additions(step.sites, step._weigh(step.by_sample)) if isinstance(a, Outer)]
        assert {len(outer.left) for outer in outers} == {min(count, samples)}, "as few factors as can be"


# ---- losses that are not one row for each sample


class Sequences(nn.Module):
    """A layer's output for each token, [samples, 3, 5], with a shift that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.shift = nn.Linear(6, 6), nn.Linear(2, 5), nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)).view(len(x), 3, 2)) + self.shift


def pairs(output: Tensor, target: Tensor) -> Tensor:
    z = output.flatten(1)
    return F.cross_entropy(z @ z.T, torch.arange(len(z)))


def of_some(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output[target > 2], target[target > 2])


def of_first_in_pairs(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy((output + output.roll(1, 0))[::2].flatten(0, 1), target[::2].flatten())


# The loss, and whether it has derivatives of each sample.
LOSSES = {
    "samples first": (lambda o, y: F.cross_entropy(o.flatten(0, 1), y.flatten()), True),
    "classes second": (lambda o, y: F.cross_entropy(o.transpose(1, 2), y), True),
    "tokens first": (lambda o, y: F.cross_entropy(o.transpose(0, 1).flatten(0, 1), y.t().flatten()), True),
    "contrastive": (pairs, False),
    "some tokens": (of_some, False),
    "every other sample": (of_first_in_pairs, False),
    "the batch's mean": (lambda o, y: F.mse_loss(o.mean((0, 1)), torch.ones(5).double()), False),
    "twice": (lambda o, y: 2 * F.cross_entropy(o.flatten(0, 1), y.flatten()), False),
    "another sample's": (lambda o, y: F.cross_entropy(o.flip(0).flatten(0, 1), y.flatten()), False),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("options", ["", ",tangents=3", ",tangents=2,layers=one", ",combine=projection"])
def test_samples_have_derivatives_of_their_own_where_the_loss_has_rows_of_theirs(name, options):
    torch.manual_seed(0)
    (loss, apart), model = LOSSES[name], Sequences().double()
    method = methods.find(f"forward:structure=activity{options}")
    for samples in (2, 4, 7):
        batch = torch.randn(samples, 6).double(), torch.randint(0, 5, (samples, 3))
        batch[1][:, 0] = 4  # some token of each sample
        check_step(method, model, loss, batch, 0)
        step = method.prepare(model, loss, 0)
        step(batch, 0.0)
        assert (step.measured.shape[1] == samples) == apart
        assert any("the whole batch shares one derivative" in note for note in step.notes()) != apart


@pytest.mark.parametrize("taken", ["as many of each sample", "more of one"])
def test_rows_that_values_pick_belong_to_no_sample(taken):
    """The first batch has two rows of each sample; a later one may have as many in all."""
    model = Sequences().double()
    step = methods.find("forward:structure=activity").prepare(model, of_some, 0)
    x, y = torch.randn(2, 6).double(), torch.tensor([[4, 4, 0], [0, 4, 4]])
    step((x, y), 0.0)
    assert step.measured.shape == (1, 1)
    y = {"as many of each sample": y, "more of one": torch.tensor([[4, 4, 4], [0, 0, 4]])}[taken]
    step((x, y), 0.0)
    assert step.measured.shape == (1, 1)


class MeanOfSome(nn.Module):
    """Each sample gets the mean of those that a mask admits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, admitted = torch.tanh(self.first(x)), (x[:, :1] > 0).to(x.dtype)
        return self.second(h + (h * admitted).sum(0) / admitted.sum())


@pytest.mark.parametrize("only", range(5))
def test_samples_meet_wherever_the_one_is_that_reaches_the_others(only):
    torch.manual_seed(0)
    model = MeanOfSome().double()
    x, target = torch.randn(5, 6).double(), torch.randint(0, 3, (5,))
    x[:, 0] = -1
    x[only, 0] = 1
    method = methods.find("forward:structure=activity")
    check_step(method, model, cross_entropy, (x, target), 0)
    step = method.prepare(model, cross_entropy, 0)
    step((x, target), 0.0)
    assert step.measured.shape == (1, 1)


@pytest.mark.parametrize("options", ["", ",tangents=3,layers=one", ",tangents=2,combine=projection"])
def test_a_batch_whose_rows_are_not_as_many_of_each_sample_shares_one_derivative(options):
    """Behind a first batch that has a derivative of each sample."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        output = output[:, :2].flatten(0, 1)  # six rows
        return cross_entropy(output[: len(target.flatten())], target.flatten())

    torch.manual_seed(0)
    model, x = Sequences().double(), torch.randn(3, 6).double()
    step = methods.find(f"forward:structure=activity{options}").prepare(model, loss, 0)
    step((x, torch.tensor([[0, 1], [2, 3], [4, 0]])), 0.0)
    assert step.measured.shape[1] == 3
    batch = x, torch.tensor([0, 1, 2, 3])
    (estimate,) = updates(step, batch, 1)
    gradient = torch.autograd.grad(loss(model(x), batch[1]), list(model.parameters()))
    wanted = flat(step.expected(gradient, model, batch))
    assert step.measured.shape[1] == 1
    assert float((estimate - wanted).norm() / wanted.norm()) < 1e-9


# ---- what zeros hide at the start


class Gated(nn.Module):
    """A branch by which samples meet, behind a gate that begins at zero, and a head of zeros if wanted."""

    def __init__(self, *, meets: bool, zero_head: bool) -> None:
        super().__init__()
        self.first, self.branch, self.head = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(4) if meets else nn.LayerNorm(4)
        nn.init.zeros_(self.norm.weight)
        if zero_head:
            nn.init.constant_(self.head.weight, -0.0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.head(h + self.norm(self.branch(h)))


@pytest.mark.parametrize("zero_head", [False, True])
@pytest.mark.parametrize("meets", [False, True])
def test_whether_samples_meet_is_seen_behind_zeros(meets, zero_head):
    torch.manual_seed(0)
    model, batch = Gated(meets=meets, zero_head=zero_head), (torch.randn(5, 6), torch.randint(0, 3, (5,)))
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    spec = "forward:structure=activity" + ("" if meets else ",noise=batch")
    step = methods.find(spec).prepare(model, cross_entropy, 0)
    step.get_ready(batch)
    with torch.no_grad():
        assert samples_meet(step.pushforward, batch[0]) == meets
    for name, value in model.state_dict().items():
        assert value.numpy().tobytes() == before[name].numpy().tobytes(), name
    assert torch.equal(torch.get_rng_state(), drawn)
    step(batch, 0.1)
    assert step.measured.shape == (1, 1 if meets else len(batch[0]))


def test_zeros_are_back_where_the_look_fails():
    model = Gated(meets=True, zero_head=True)
    step = methods.find("forward:structure=activity").prepare(model, cross_entropy, 0)
    with pytest.raises(RuntimeError):
        step.get_ready((torch.randn(5, 7), torch.zeros(5, dtype=torch.int64)))
    assert not model.head.weight.any()
    assert model.head.weight.signbit().all()


# ---- layers that are left out at random


class LeavesOut(nn.Module):
    """A block of two layers, which is left out half of the time, before a layer for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.tokens = nn.Linear(6, 8), nn.Linear(8, 6), nn.Linear(2, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if torch.rand([]) < 0.5:
            x = x + self.down(torch.tanh(self.up(x)))
        return self.head(torch.tanh(self.tokens(x.view(len(x), 3, 2).transpose(0, 1))).mean(0))


@pytest.mark.parametrize("options", ["", ",tangents=2", ",combine=projection"])
def test_layers_may_be_left_out_at_random(options):
    torch.manual_seed(0)
    model, batch = LeavesOut().double(), (torch.randn(9, 6).double(), torch.randint(0, 3, (9,)))
    step = methods.find(f"forward:structure=activity{options}").prepare(model, cross_entropy, 0)
    met = set()
    for seed in range(8):
        with OwnRandomness(seed, torch.device("cpu")).in_force():
            (estimate,) = updates(step, batch, 1)
        met.add(len(step.sites))
        with OwnRandomness(seed, torch.device("cpu")).in_force():
            wanted = flat(step.expected([], model, batch))
        assert float((estimate - wanted).norm() / wanted.norm()) < 1e-9
    assert met == {2, 4}


@pytest.mark.parametrize("samples", [9, 1])
def test_a_layer_is_not_taken_for_another_where_one_is_drawn(samples):
    model = LeavesOut().double()
    batch = torch.randn(samples, 6).double(), torch.randint(0, 3, (samples,))
    step = methods.find("forward:structure=activity,layers=one").prepare(model, cross_entropy, 0)
    with pytest.raises(NotImplementedError, match="runs other layers in other passes"):
        for seed in range(8):
            with OwnRandomness(seed, torch.device("cpu")).in_force():
                step(batch, 0.1)


class Unrolled(nn.Module):
    """As many steps of a layer as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head, self.times = nn.Linear(6, 6), nn.Linear(6, 3), 1

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = torch.tanh(self.cell(x))
        return self.head(x)


def test_a_layer_that_no_pass_met_before_does_not_stay_without_noise():
    model, batch = Unrolled().double(), (torch.randn(9, 6).double(), torch.randint(0, 3, (9,)))
    step = methods.find("forward:structure=activity").prepare(model, cross_entropy, 0)
    step(batch, 0.1)
    model.times = 2
    with pytest.raises(NotImplementedError, match="runs other layers in other passes"):
        step((batch[0][:8], batch[1][:8]), 0.1)


class LooksAhead(nn.Module):
    """A layer whose output comes once with gradients, and once without, as in an equilibrium's last step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = torch.tanh(self.layer(x.flatten(1)))
        return self.head(torch.tanh(self.layer(h)))


@pytest.mark.parametrize("options", ["", ",tangents=3", ",layers=one"])
def test_what_a_model_computes_without_gradients_is_not_perturbed(options):
    method = methods.find(f"forward:structure=activity{options}")
    check_step(method, LooksAhead().double(), cross_entropy, tiny_batch(), 0)


@pytest.mark.parametrize("options", ["", ",tangents=2"])
def test_a_weight_computed_from_what_each_pass_changes_is_checked(options):
    """Spectral norm goes on with its power iteration at every pass."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(16, 8)), nn.Tanh(), nn.Linear(8, 3)).double()
    method = methods.find(f"forward:structure=activity{options}")
    check_step(method, model, cross_entropy, tiny_batch(), 0)


class Listed(nn.Module):
    """A recurrent layer, and two parameters of no layer: torch is given all of these in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.head = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 3)
        self.one, self.other = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.network(x.view(len(x), 4, 4))[0][:, -1]
        return self.head(h @ torch.stack([self.one, self.other]).sum(0))


@pytest.mark.parametrize("options", ["", ",tangents=3,combine=projection", ",layers=one,tangents=8"])
def test_parameters_that_are_given_in_a_list_are_trained(options):
    torch.manual_seed(0)
    model, method = Listed().double(), methods.find(f"forward:structure=activity{options}")
    check_step(method, model, cross_entropy, tiny_batch(), 0)
    step = method.prepare(copy.deepcopy(model), cross_entropy, 0)
    for _ in range(20):
        step(tiny_batch(), 0.01)
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), step.parameters, strict=True))


@torch.jit.script
def scripted(weight: Tensor) -> Tensor:
    return torch.tanh(weight)


class Hidden(Shifted):
    """A parameter that is used below Python alone."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) + scripted(self.shift)


@pytest.mark.parametrize("options", ["", ",layers=one"])
def test_a_parameter_whose_use_is_not_seen_is_not_left_untrained_in_silence(options):
    method = methods.find(f"forward:structure=activity{options}")
    with pytest.raises(NotImplementedError, match="cannot see what the model does with shift"):
        check_step(method, Hidden().double(), cross_entropy, tiny_batch(), 0)
