"""Activity perturbation: unbiased in every layer, with biases, at batch sizes above one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scipy import stats
from torch import Tensor, nn

from fgbench import methods
from fgbench.methods.steps.oracle import check_step
from fgbench.pushforward.engine import Pushforward
from tests.builders import cross_entropy, flat, reverse_gradient, updates

DRAWS = 2500
FALSE_ALARMS = 1e-4


class Attending(nn.Module):
    """Attention, a norm, and a token that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.attention, self.norm = nn.MultiheadAttention(4, 2, batch_first=True), nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.norm(h + self.attention(h, h, h, need_weights=False)[0])[:, 0])


def built(name: str) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    image, target = torch.randn(4, 2, 4, 4).double(), torch.tensor([0, 2, 1, 0])
    models = {
        "mlp": nn.Sequential(
            nn.Flatten(), nn.Linear(32, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
        ),
        "cnn": nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 2), nn.Flatten(),
            nn.Linear(2, 3),
        ),
        "batch norm": nn.Sequential(
            nn.Flatten(), nn.Linear(32, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3)
        ),
        "attention": Attending(),
        "in place": nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 4),
            nn.ReLU(inplace=True), nn.Linear(4, 3),
        ),
    }  # fmt: skip
    x = torch.randn(4, 3, 4).double() if name == "attention" else image
    return models[name].double().train(), (x, target)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, "") for name in ("mlp", "cnn", "batch norm", "attention")),
        *((name, ",tangents=2,entries=gaussian") for name in ("mlp", "cnn", "batch norm")),
        *((name, ",noise=batch") for name in ("mlp", "cnn", "attention")),
        ("mlp", ",tangents=2,entries=gaussian,noise=batch"),
    ],
)
def test_unbiased_in_every_layer(name, options):
    """A z-test of every component against reverse mode, at an error rate of 1e-4 over a layer."""
    model, batch = built(name)
    gradient = reverse_gradient(model, batch)
    step = methods.find(f"forward:structure=activity{options}").prepare(model, cross_entropy, seed=1)
    estimates = torch.stack(list(updates(step, batch, DRAWS)))
    z = (estimates.mean(0) - flat(gradient)).abs() / (estimates.std(0) / math.sqrt(DRAWS) + 1e-12)
    start = 0
    for (layer, _), g in zip(model.named_parameters(), gradient, strict=True):
        own, start = z[start : start + g.numel()], start + g.numel()
        assert float(own.max()) < float(stats.norm.isf(FALSE_ALARMS / 2 / g.numel())), layer


@pytest.mark.parametrize("name", ["in place", "attention"])
@pytest.mark.parametrize(
    "options", ["", ",tangents=2", ",tangents=2,noise=batch", ",tangents=2,combine=projection"]
)
def test_the_oracle_knows_layers_in_place_and_parameters_of_no_layer(name, options):
    model, batch = built(name)
    for seed in range(5):
        check_step(methods.find(f"forward:structure=activity{options}"), model, cross_entropy, batch, seed)


class ByName(nn.Module):
    """Operations of layers that are given their input by name."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.weight = nn.Parameter(torch.randn(2, 3, 3)), nn.Parameter(torch.randn(3, 8))
        self.slope, self.shift = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(3))

    def forward(self, x):
        h = F.prelu(input=F.conv1d(input=x, weight=self.kernel, padding=1), weight=self.slope)
        return F.linear(input=h.flatten(1), weight=self.weight, bias=self.shift)


@pytest.mark.parametrize("layers", ["all", "one"])
def test_layers_whose_input_is_given_by_name(layers):
    torch.manual_seed(0)
    batch = torch.randn(4, 3, 4).double(), torch.tensor([0, 2, 1, 0])
    check_step(
        methods.find(f"forward:structure=activity,layers={layers}"),
        ByName().double(),
        cross_entropy,
        batch,
        0,
    )


def test_variance_falls_with_the_batch_as_its_closed_form_says():
    """One linear layer, independent noise: Var = Σ over samples (Ren et al. 2023, Table 1).

    For g = Σ_b d_b ε_b x_bᵀ with ±1 noise, d_b = ⟨s_b, ε_b⟩: E‖g‖² − ‖∇f‖² = Σ_b ‖x_b‖² ‖s_b‖² (q − 1)
    for q outputs. Within 4 standard errors.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 3, bias=False)).double()
    x, target = torch.randn(6, 5).double(), torch.randn(6, 3).double()
    gradient = torch.autograd.grad(F.mse_loss(model(x), target), model[0].weight)[0]
    slopes = (2 * (model(x) - target) / 18).detach()
    step = methods.find("forward:structure=activity").prepare(model, F.mse_loss, seed=1)
    squares = torch.stack([e.square().sum() for e in updates(step, (x, target), 8000)])
    spread = (x.square().sum(1) * slopes.square().sum(1)).sum() * 2
    wanted = float(gradient.square().sum() + spread)
    assert abs(float(squares.mean()) - wanted) < 4 * float(squares.std()) / math.sqrt(len(squares))


@pytest.mark.parametrize(
    ("name", "meet"), [("mlp", False), ("cnn", False), ("batch norm", True), ("attention", False)]
)
def test_samples_meet_just_in_batch_statistics(name, meet):
    model, (x, target) = built(name)
    before = flat(list(model.buffers())) if list(model.buffers()) else torch.zeros(0)
    state = torch.get_rng_state()
    pushforward = Pushforward(model, cross_entropy)
    assert (pushforward.layouts(x) is None) == meet
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(flat(list(model.buffers())) if len(before) else before, before)
    if name == "batch norm":
        model.eval()
        assert pushforward.layouts(x) is not None
    assert len(target) == 4


def test_frozen_layers_are_not_perturbed():
    model, batch = built("mlp")
    for p in model[1].parameters():
        p.requires_grad_(False)
    step = methods.find("forward:structure=activity").prepare(model, cross_entropy, seed=1)
    step(batch, 0.1)
    assert [s.function for s in step.sites] == [F.linear, F.linear]


def test_batches_of_other_sizes_have_noise_of_their_own():
    model, (x, target) = built("mlp")
    step = methods.find("forward:structure=activity").prepare(model, cross_entropy, seed=1)
    for samples in (4, 2, 4, 3):
        step((x[:samples], target[:samples]), 0.1)
        assert all(s.noise.shape[1] == samples for s in step.sites)
    first = [n.clone() for n in step.noise[x[:4].shape].values()]
    step((x, target), 0.1)
    assert not any(torch.equal(a, b) for a, b in zip(first, step.noise[x.shape].values(), strict=True))


class Scaled(nn.Module):
    def __init__(self, **options: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))
        self.head, self.options = nn.Linear(8, 4), options

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(torch.addmm(self.bias, x, self.weight, **self.options)))


@pytest.mark.parametrize("more", ["", ",layers=one"])
@pytest.mark.parametrize("options", [{}, {"alpha": 0.5}, {"beta": 0.5}, {"alpha": 2.0, "beta": 3.0}], ids=str)
def test_a_product_whose_terms_are_scaled_has_estimates_of_its_own(options, more):
    batch = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    method = methods.find(f"forward:structure=activity{more}")
    check_step(method, Scaled(**options).double(), cross_entropy, batch, seed=0)


CASTS = {
    "to": lambda weight, x: weight.to(x.dtype),
    "type_as": lambda weight, x: weight.type_as(x),
    "double": lambda weight, x: weight.double(),
    "contiguous": lambda weight, x: weight.contiguous(),
}


class Casting(nn.Module):
    """Casts its weights to the dtype of what it gets, as layers for mixed precision do."""

    def __init__(self, cast: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cast, self.first, self.head = cast, nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.head):
            x = F.linear(torch.tanh(x), *(CASTS[self.cast](p, x) for p in (layer.weight, layer.bias)))
        return x


@pytest.mark.parametrize("cast", CASTS)
def test_a_cast_that_changes_nothing_hides_no_layer(cast):
    model = Casting(cast).double()
    batch = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    step = methods.find("forward:structure=activity").prepare(model, cross_entropy, 0)
    step(batch, 0.0)
    assert [site.function for site in step.sites] == [F.linear, F.linear]
    assert not step.free


@pytest.mark.parametrize("structure", ["activity", "rank-one", "gaussian"])
def test_a_cast_that_changes_the_precision_keeps_the_derivatives(structure):
    model = Casting("double").double()
    model.head.float()
    batch = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    check_step(methods.find(f"forward:structure={structure}"), model, cross_entropy, batch, seed=0)


class Token(nn.Module):
    """A parameter of no layer, which moves the output also through a part that is not differentiated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(8))
        self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = torch.tanh(self.token)
        return self.head(torch.tanh(self.first(x) * scale + self.token))


@pytest.mark.parametrize("more", ["", ",tangents=3,combine=projection", ",layers=one"])
def test_what_stands_still_for_reverse_mode_does_so_for_the_check(more):
    batch = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    method = methods.find(f"forward:structure=activity{more}")
    check_step(method, Token().double(), cross_entropy, batch, seed=0)


NORMS = {
    "by names": lambda x, scale, shift: F.layer_norm(x, (2, 4), weight=scale, bias=shift, eps=1e-3),
    "by place": lambda x, scale, shift: torch.layer_norm(x, (2, 4), scale, shift, 1e-3, False),
    "scaled alone": lambda x, scale, shift: F.layer_norm(x, (2, 4), scale) + shift,
    "shifted alone": lambda x, scale, shift: scale * F.layer_norm(x, (2, 4), None, shift),
    "of a transposed input": lambda x, *given: F.layer_norm(x.mT.contiguous().mT, (2, 4), *given),
    "with a frozen scale": lambda x, scale, shift: F.layer_norm(x, (2, 4), scale.detach(), shift),
}


class Normed(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.name, self.first, self.head = name, nn.Linear(8, 8), nn.Linear(8, 4)
        self.scale, self.shift = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x)).unflatten(1, (2, 4))
        return self.head(NORMS[self.name](x, self.scale, self.shift).flatten(1))


@pytest.mark.parametrize("more", ["", ",tangents=3,combine=projection,noise=batch"])
@pytest.mark.parametrize("name", NORMS)
def test_the_scale_and_shift_of_a_norm_are_estimated_by_its_chain_rule(name, more):
    batch = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    method = methods.find(f"forward:structure=activity{more}")
    check_step(method, Normed(name).double(), cross_entropy, batch, seed=0)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_norm_s_parameters_may_be_wider_than_its_input(norm, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8).to(dtype), norm(8), nn.Linear(8, 4).to(dtype))
    batch = torch.randn(4, 8, dtype=dtype), torch.tensor([0, 3, 1, 1])
    method = methods.find("forward:structure=activity")
    check_step(method, model, lambda output, target: cross_entropy(output.float(), target), batch, seed=0)


class AsTorchHasIt(nn.BatchNorm1d):
    """By the function of torch whose arguments are in another order."""

    def forward(self, x: Tensor) -> Tensor:
        given = self.weight, self.bias, self.running_mean, self.running_var
        return torch.batch_norm(x, *given, self.training, 0.1, self.eps, False)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", ["both", "scale", "shift"])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, AsTorchHasIt])
def test_the_scale_and_shift_of_a_batch_norm_are_estimated_by_its_chain_rule(kind, affine, training):
    torch.manual_seed(0)
    norm = kind(8)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), norm, nn.Linear(8, 4)).double()
    nn.init.normal_(norm.weight)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    if affine != "both":
        norm.register_parameter("bias" if affine == "scale" else "weight", None)
    model.train(training)
    batch = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    method = methods.find("forward:structure=activity")
    check_step(method, model, cross_entropy, batch, seed=0)
    before = norm.running_mean.clone()
    step = method.prepare(model, cross_entropy, 0)
    step(batch, 0.0)
    assert norm.running_mean.equal(before) != training
    plain = nn.BatchNorm1d(8, affine=False).double().train(training)
    plain.running_mean.copy_(before)
    plain(torch.tanh(model[0](batch[0])))
    torch.testing.assert_close(norm.running_mean, plain.running_mean)


@dataclass
class Given:
    logits: Tensor


class GivesADataclass(Token):
    def forward(self, x: Tensor) -> Given:
        return Given(super().forward(x))


class GivesItsHead(nn.Module):
    """Leaves its last layer to the loss, as where logits are made a part at a time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(8, 8), nn.Parameter(torch.randn(4, 8))
        self.token = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.first(x) + self.token), self.head


def head_in_loss(output, target):
    return F.cross_entropy(F.linear(*output), target)


@pytest.mark.parametrize("more", ["", ",tangents=3,combine=projection"])
@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (GivesADataclass, lambda output, target: F.cross_entropy(output.logits, target)),
        (GivesItsHead, head_in_loss),
    ],
)
def test_the_check_follows_what_the_loss_is_given(model, loss, more):
    batch = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    check_step(methods.find(f"forward:structure=activity{more}"), model().double(), loss, batch, seed=0)


def test_one_layer_a_step_refuses_a_layer_in_the_loss_in_a_line():
    batch = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    step = methods.find("forward:structure=activity,layers=one").prepare(
        GivesItsHead().double(), head_in_loss, 0
    )
    with pytest.raises(NotImplementedError, match="here the loss runs one too"):
        step(batch, 0.1)


class Queries(nn.Module):
    """Learned queries, which are the input of a layer, behind batch statistics by which samples meet."""

    def __init__(self, queries: Tensor, layer: nn.Module) -> None:
        super().__init__()
        self.queries, self.layer = nn.Parameter(queries), layer
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        asked = self.layer(self.queries)
        return self.head(self.norm(x) * asked.reshape(-1, 8, asked[0].numel() // 8).mean((0, 2)))


class Product(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


@pytest.mark.parametrize("more", ["", ",tangents=3,combine=projection", ",layers=one"])
@pytest.mark.parametrize("kind", ["linear", "convolution", "product"])
def test_parameters_that_are_the_input_of_a_layer_are_trained(kind, more):
    torch.manual_seed(0)
    made = {
        "linear": (torch.randn(3, 8), nn.Linear(8, 8)),
        "convolution": (torch.randn(1, 3, 4, 4), nn.Conv2d(3, 8, 3)),
        "product": (torch.randn(3, 8), Product()),
    }
    model = Queries(*made[kind]).double()
    batch = torch.randn(4, 8, dtype=torch.float64), torch.tensor([0, 3, 1, 1])
    method = methods.find(f"forward:structure=activity{more}")
    check_step(method, model, cross_entropy, batch, seed=0)
    before = model.queries.detach().clone()
    method.prepare(model, cross_entropy, 0)(batch, 1.0)
    assert more == ",layers=one" or not torch.equal(model.queries, before)
