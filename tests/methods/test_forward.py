"""The forward gradient against its definition, its second moment, and models that are awkward."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from fgbench import methods
from fgbench.measurement.memory import peak_of_step
from fgbench.methods.steps import oracle, update
from fgbench.pushforward.course import Face
from fgbench.pushforward.dual import Dual
from fgbench.running.matched import weights_hash
from tests.builders import cross_entropy, flat, reverse_gradient, tiny_batch, tiny_mlp, updates

STOCK = ["forward:engine=stock", "forward:engine=stock,structure=rademacher"]
SPECS = [
    *STOCK,
    "forward",
    "forward:structure=rademacher",
    "forward:structure=sphere,tangents=3",
    "forward:structure=rank-one",
    "forward:structure=rank-one,entries=gaussian,tangents=3",
    "forward:structure=orthonormal,tangents=3",
    "forward:structure=fixed-angle,tangents=3,angle=30",
    "forward:tangents=4,combine=projection",
    "forward:tangents=4,combine=sum,chunk=3",
    "forward:structure=rank-one,tangents=4,combine=projection,chunk=2",
    "forward:tangents=3,store=seed",
    "forward:tangents=3,clip=0.01",
    "forward:tangents=3,scale=variance",
    "forward:structure=activity",
    "forward:structure=activity,tangents=3,entries=gaussian",
]
OTHERS = [
    "backprop",
    "backprop:update=in-backward",
    "backprop:checkpoint=true",
    "backprop:checkpoint=true,segments=sqrt,update=in-backward",
    "spsa",
]


class Tied(nn.Module):
    """One weight used twice, once transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.again = nn.Linear(16, 16)
        self.again.weight = self.inner.weight
        self.out = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.again(torch.tanh(self.inner(x.flatten(1))))))


def with_batch_norm() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    return model.double().train()


def with_dropout() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))
    return model.double().train()


def with_frozen() -> nn.Module:
    model = tiny_mlp()
    model[1].weight.requires_grad_(False)
    return model


def tied() -> nn.Module:
    torch.manual_seed(0)
    return Tied().double().train()


AWKWARD = {"batch norm": with_batch_norm, "dropout": with_dropout, "frozen": with_frozen, "tied": tied}


class Odd(nn.Module):
    """Parameters of no dimension and without entries."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.nothing = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.empty(0, 3))
        self.layer = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)) * self.gain


@pytest.mark.parametrize("spec", [*SPECS, "forward:tangents=2,layers=one", "spsa"])
def test_parameters_of_no_dimension_or_without_entries_are_trained(spec):
    torch.manual_seed(0)
    oracle.check_step(methods.find(spec), Odd().double(), cross_entropy, tiny_batch(), seed=1)


class Mixed(nn.Module):
    """Layers of one dtype around a norm of another, which comes first or second among the parameters."""

    def __init__(self, layer: torch.dtype, norm: torch.dtype, first: bool) -> None:
        super().__init__()
        self.kinds = layer, norm
        self.norm = nn.LayerNorm(6).to(norm) if first else nn.Identity()
        self.inner, self.out = nn.Linear(16, 6).to(layer), nn.Linear(6, 3).to(layer)
        self.norm = self.norm if first else nn.LayerNorm(6).to(norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer, norm = self.kinds
        return self.out(torch.tanh(self.norm(self.inner(x.flatten(1).to(layer)).to(norm))).to(layer)).to(norm)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kinds", [(torch.float32, torch.float64), (torch.bfloat16, torch.float32)], ids=str)
@pytest.mark.parametrize("spec", [*SPECS, "forward:structure=rank-one,layers=one", "backprop", "spsa"])
def test_parameters_of_several_dtypes_are_trained(spec, kinds, first):
    if spec == "spsa" and torch.bfloat16 in kinds:
        pytest.skip("a move by epsilon is about the rounding of bfloat16")
    torch.manual_seed(0)
    oracle.check_step(methods.find(spec), Mixed(*kinds, first), cross_entropy, tiny_batch(), seed=1)


@pytest.mark.parametrize("spec", ["forward", "forward:structure=activity", "forward:engine=stock", "spsa"])
def test_complex_parameters_are_refused_in_plain_words(spec):
    model = nn.Linear(3, 2)
    model.weight = nn.Parameter(model.weight.detach().to(torch.complex64))
    with pytest.raises(NotImplementedError, match=r"complex parameters, as 'weight' is"):
        methods.find(spec).prepare(model, cross_entropy, seed=0)


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
@pytest.mark.parametrize("spec", [s for s in SPECS + OTHERS if "activity" not in s])
def test_a_loss_of_one_entry_may_have_dimensions(spec, shape):
    def loss(output, target):
        return cross_entropy(output, target).reshape(shape)

    oracle.check_step(methods.find(spec), tiny_mlp(), loss, tiny_batch(), seed=1)


def tangent_of(step: methods.Step) -> torch.Tensor:
    """The one tangent of a step, flat."""
    return flat([t[0] for t in step.tangents.full()])


@pytest.mark.parametrize("spec", ["forward", "forward:structure=rademacher", "forward:structure=rank-one"])
def test_update_is_the_learning_rate_times_derivative_times_tangent(spec):
    model, batch = tiny_mlp(), tiny_batch()
    gradient = flat(reverse_gradient(model, batch))
    step = methods.find(spec).prepare(model, cross_entropy, seed=1)
    before = flat(list(step.parameters))
    step(batch, 0.25)
    tangent = tangent_of(step)
    wanted = -0.25 * (gradient @ tangent) * tangent
    moved = flat(list(step.parameters)) - before
    assert float((moved - wanted).norm() / wanted.norm()) < 1e-9
    assert step.derivatives.tolist() == pytest.approx([float(gradient @ tangent)], rel=1e-9)


@pytest.mark.parametrize(
    ("spec", "excess"),
    [
        ("forward", 2),
        ("forward:structure=rademacher", 0),
        ("forward:structure=sphere", 0),
        ("forward:structure=rank-one", 0),
    ],
)
def test_second_moment_is_n_plus_2_for_gaussian_and_n_for_the_others(spec, excess):
    """E‖g‖² over 20 000 tangents, within 4 standard errors (a false alarm in 16 000)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1, bias=False), nn.Linear(1, 3, bias=False)).double()
    batch, draws = tiny_batch(), 20_000
    gradient = flat(reverse_gradient(model, batch))
    step = methods.find(spec).prepare(model, cross_entropy, seed=2)
    size = len(gradient)
    squares = []
    for _ in range(draws):  # the tangents of the step itself, without the forward pass
        step.draw()
        v = tangent_of(step)
        squares.append(float((gradient @ v) ** 2 * v.square().sum()))
    moments = torch.tensor(squares, dtype=torch.float64) / float(gradient.square().sum())
    error = float(moments.std()) / math.sqrt(draws)
    assert abs(float(moments.mean()) - (size + excess)) < 4 * error, (float(moments.mean()), size, error)
    assert error < 0.5, "too coarse to tell n from n + 2"


@pytest.mark.parametrize(("structure", "kurtosis"), [("gaussian", 3.0), ("rademacher", 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tangent_entries_have_mean_0_variance_1_and_their_kurtosis(structure, kurtosis, dtype):
    model = nn.Linear(1000, 400, bias=False).to(dtype)
    step = methods.find(f"forward:structure={structure}").prepare(model, cross_entropy, seed=4)
    step.draw()
    v, n = tangent_of(step), tangent_of(step).numel()
    assert abs(float(v.mean())) < 5 / math.sqrt(n)
    assert abs(float(v.square().mean()) - 1) < 5 * math.sqrt(2 / n)
    assert abs(float(v.pow(4).mean()) - kurtosis) < 5 * math.sqrt(96 / n)


def test_rademacher_entries_are_plus_or_minus_1():
    model = nn.Linear(100, 40)
    step = methods.find("forward:structure=rademacher").prepare(model, cross_entropy, seed=4)
    step.draw()
    assert set(tangent_of(step).tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(
    "options", ["", ":structure=rank-one", ":tangents=3,combine=projection", ":layers=one"]
)
def test_a_model_whose_parameters_get_other_memory_is_the_one_that_is_trained(options):
    """As by `vector_to_parameters`, or an optimiser that keeps all of them in one buffer."""
    model, (x, y) = tiny_mlp(), tiny_batch()
    step = methods.find(f"forward{options}").prepare(model, cross_entropy, 0)
    for _ in range(4):
        step((x, y), 1e-3)
    with torch.no_grad():
        vector_to_parameters(0.5 * parameters_to_vector(model.parameters()), model.parameters())
        wanted, before = cross_entropy(model(x), y), parameters_to_vector(model.parameters()).clone()
    for _ in range(3):  # the first one makes new straight-line code, which the next ones run
        assert torch.allclose(step((x, y), 0.0), wanted)
    step((x, y), 1e-3)
    assert not torch.equal(parameters_to_vector(model.parameters()), before)


class GivesOtherMemory(nn.Module):
    """Sets `data` in its forward: of a trained weight, as to clip it, or of a frozen one, as MoCo's code."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.body, self.given = tiny_mlp(), nn.Parameter(torch.ones(3), requires_grad=not frozen)

    def forward(self, x):
        with torch.no_grad():
            self.given.data = self.given.data.clamp(-9, 9)
        return self.given * self.body(x)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_forward_may_give_parameters_other_memory_at_each_step(monkeypatch, frozen):
    """Each update arrives, and straight-line code is not made at each step, as it takes as long as many."""
    traces, trace = [], update.flat
    monkeypatch.setattr(update, "flat", lambda *given: traces.append(given) or trace(*given))
    model = GivesOtherMemory(frozen)
    step = methods.find("forward").prepare(model, cross_entropy, 0)
    for _ in range(8):
        before = parameters_to_vector(step.parameters).clone()
        step(tiny_batch(), 1e-3)
        moved = parameters_to_vector(step.parameters) != before
        assert moved.all()
    assert len(traces) == (1 if frozen else 2)


@pytest.mark.parametrize("spec", [*SPECS, *OTHERS])
@pytest.mark.parametrize("name", AWKWARD)
def test_oracle_accepts_it_on_an_awkward_model(spec, name):
    if name == "tied" and "sqrt" in spec:
        pytest.skip("√depth segments are of a sequence")
    oracle.check_step(methods.find(spec), AWKWARD[name](), cross_entropy, tiny_batch(), seed=3)


@pytest.mark.parametrize("spec", [*SPECS, *OTHERS])
def test_running_statistics_are_those_of_backprop_and_not_dual(spec):
    stepped = {}
    for name in ("backprop", spec):
        model = with_batch_norm()
        step = methods.find(name).prepare(model, cross_entropy, seed=0)
        step(tiny_batch(), 0.0)
        step(tiny_batch(samples=4), 0.0)
        stepped[name] = dict(model.named_buffers())
    for key, buffer in stepped[spec].items():
        off = 1e-2 if spec == "spsa" else 1e-12  # it evaluates at weights moved by ε
        assert torch.allclose(buffer.double(), stepped["backprop"][key].double(), atol=off), key
        assert torch.autograd.forward_ad.unpack_dual(buffer.detach()).tangent is None
        assert torch.isfinite(buffer.float()).all(), key
    assert int(stepped[spec]["2.num_batches_tracked"]) == 2
    assert not torch.equal(stepped[spec]["2.running_mean"], with_batch_norm()[2].running_mean)


def test_a_model_with_batch_norm_can_be_hashed_copied_and_evaluated_after_a_step():
    model = with_batch_norm()
    before = weights_hash(model)
    methods.find("forward:engine=stock").prepare(model, cross_entropy, seed=0)(tiny_batch(), 0.1)
    assert weights_hash(copy.deepcopy(model)) == weights_hash(model) != before
    assert torch.isfinite(model.eval()(tiny_batch()[0])).all()


def test_stock_forward_mode_leaves_padding_rows_still():
    """PyTorch's gives them tangents, where reverse mode gives them no gradient."""
    torch.manual_seed(0)
    words = nn.Embedding(9, 6, padding_idx=0)
    nn.init.normal_(words.weight)
    model = nn.Sequential(words, nn.Flatten(), nn.Linear(24, 3)).double()
    batch = torch.tensor([[0, 1, 0, 2], [3, 0, 4, 5]]), torch.tensor([0, 2])
    oracle.check_step(methods.find("forward:engine=stock"), model, cross_entropy, batch, 1)


def test_dropout_drops_anew_in_every_step():
    step = methods.find("forward").prepare(with_dropout(), cross_entropy, seed=0)
    losses = {float(step(tiny_batch(), 0.0)) for _ in range(5)}
    assert len(losses) == 5


@pytest.mark.parametrize("spec", [*SPECS, *OTHERS])
def test_frozen_parameters_stay_and_the_others_move(spec):
    model = with_frozen()
    before = copy.deepcopy(model)
    methods.find(spec).prepare(model, cross_entropy, seed=0)(tiny_batch(), 0.1)
    moved = {
        name
        for name, p in model.named_parameters()
        if not torch.equal(p, dict(before.named_parameters())[name])
    }
    assert moved == {"1.bias", "3.weight", "3.bias"}


@pytest.mark.parametrize("spec", [*SPECS, *(s for s in OTHERS if "sqrt" not in s)])
def test_tied_weights_stay_tied_and_count_once(spec):
    model = tied()
    step = methods.find(spec).prepare(model, cross_entropy, seed=0)
    before = model.inner.weight.detach().clone()
    step(tiny_batch(), 0.1)
    assert len(step.parameters) == 5
    assert model.inner.weight is model.again.weight
    assert not torch.equal(model.inner.weight, before)


@pytest.mark.parametrize("spec", [s for s in SPECS if "activity" not in s])
def test_no_reverse_graph_is_built(spec, monkeypatch):
    def forbidden(*_args: object, **_options: object) -> None:
        raise AssertionError("reverse mode")

    model = tiny_mlp()
    for name in ("grad", "backward"):
        monkeypatch.setattr(torch.autograd, name, forbidden)
    step = methods.find(spec).prepare(model, cross_entropy, seed=0)
    seen: list[bool] = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        moving = output.dual if isinstance(output, Face) else output
        seen.append((moving.stack if isinstance(moving, Dual) else moving).requires_grad)
        return cross_entropy(output, target)

    value = step(tiny_batch(), 0.1)
    methods.find(spec).prepare(model, loss, seed=0)(tiny_batch(), 0.1)
    assert seen
    assert not any(seen)
    assert not value.requires_grad
    assert all(p.requires_grad and p.grad is None and p.grad_fn is None for p in model.parameters())


@pytest.mark.parametrize("spec", [*(s for s in SPECS if "projection" not in s), "spsa"])
def test_directional_derivative_is_not_read_back_in_the_step(spec, monkeypatch):
    def forbidden(*_args: object) -> float:
        raise AssertionError("a step waited for the device")

    step = methods.find(spec).prepare(tiny_mlp(), cross_entropy, seed=0)
    step(tiny_batch(), 0.1)
    for name in ("item", "tolist", "__float__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, forbidden)
    step(tiny_batch(), 0.1)


def test_successive_tangents_differ():
    one, other = updates(
        methods.find("forward").prepare(tiny_mlp(), cross_entropy, seed=0), tiny_batch(), draws=2
    )
    cosine = float(one @ other / one.norm() / other.norm())
    assert abs(cosine) < 0.9, cosine


@pytest.mark.parametrize(
    ("spec", "copies"),
    [
        ("forward:engine=stock", 2),
        ("forward", 2),
        ("forward:tangents=3", 4),
        ("forward:store=seed", 1.25),  # one of four layers' tangents at a time
        ("forward:structure=rank-one", 1),
        ("spsa", 1.25),
    ],
)
def test_its_memory_is_that_of_parameters_and_of_the_tangents_that_it_keeps(spec, copies):
    """No copy of the tangents: dual numbers copy a tangent laid out unlike its primal."""
    width, batch = 512, 4

    def prepare():
        model = nn.Sequential(*(nn.Linear(width, width) for _ in range(4)))
        step = methods.find(spec).prepare(model, lambda output, _: output.square().mean(), 0)
        x = torch.randn(batch, width)
        return lambda: step((x, x), 1e-6)

    parameters = 4 * (width * width + width) * 4
    peak = peak_of_step(prepare, torch.device("cpu")).allocated
    assert copies * parameters <= peak < (copies + 0.1) * parameters, peak / parameters


def test_activations_of_one_layer_alone_live_at_a_time():
    """The peak beyond the parameters is the same at 4 and at 12 layers; backprop's grows with them."""

    def beyond_parameters(spec: str, layers: int) -> int:
        def prepare():
            model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(layers)))
            step = methods.find(spec).prepare(model, lambda output, _: output.square().mean(), 0)
            x = torch.randn(1024, 64)
            return lambda: step((x, x), 1e-6)

        return peak_of_step(prepare, torch.device("cpu")).allocated - layers * (64 * 64 + 64) * 4

    few, many = (beyond_parameters("forward:structure=rank-one", n) for n in (4, 12))
    assert many < 1.05 * few
    assert beyond_parameters("backprop", 12) > 1.5 * beyond_parameters("backprop", 4)


class Tempered(nn.Module):
    """With a parameter that is one number, such as CLIP's temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.temperature = nn.Linear(16, 3), nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return self.layer(x.flatten(1)) * self.temperature.exp()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec not in STOCK])
def test_a_parameter_may_be_one_number(spec):
    torch.manual_seed(0)
    oracle.check_step(methods.find(spec), Tempered().double(), cross_entropy, tiny_batch(), 0)
