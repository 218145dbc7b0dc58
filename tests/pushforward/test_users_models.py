"""Models as users write them, each against reverse mode: by rules, or by jvp of a part."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fgbench import methods
from fgbench.methods.steps.oracle import check_step
from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual
from fgbench.pushforward.engine import Pushforward
from fgbench.pushforward.fallback import by_jvp
from fgbench.pushforward.generators import set_states, states
from tests.builders import cross_entropy
from tests.pushforward.checks import check, derivatives, drawn

CLASSES = 4
FORWARD = (1, 3)


class TiedByFunction(nn.Module):
    """A language model's head: the embedding's weight again, through a function."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner = nn.Embedding(9, 6, padding_idx=0), nn.Linear(6, 6)
        self.classes = nn.Linear(9, CLASSES)

    def forward(self, x):
        h = torch.tanh(self.inner(self.words(x))).mean(1)
        return self.classes(F.linear(h, self.words.weight))


class TiedAutoencoder(nn.Module):
    """A layer's weight, and its transpose further on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 5), nn.Linear(6, CLASSES)
        self.shift = nn.Parameter(torch.randn(6))

    def forward(self, x):
        h = torch.tanh(self.inner(x))
        return self.head(F.linear(h, self.inner.weight.t(), self.shift))


class ThreeTimes(nn.Module):
    """A block of a layer and a norm, gone through three times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.GELU())
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        for _ in range(3):
            x = x + self.block(x)
        return self.head(x)


class UntilSmall(nn.Module):
    """As often as its values ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        h = 8 * x
        while h.abs().mean() > 0.2:
            h = torch.tanh(self.inner(h)) * 0.7
        return self.head(h)


class Convolutions(nn.Module):
    """Depthwise, dilated, grouped and transposed, with squeeze-and-excitation and interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.grouped, self.norm = nn.Conv2d(8, 8, 3, 2, 1, groups=2), nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.squeeze, self.excite = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        h = F.silu(self.depthwise(self.stem(x)))
        h = F.leaky_relu(self.norm(self.grouped(self.dilated(h))), 0.1)
        h = F.interpolate(self.up(h), scale_factor=2, mode="bilinear", align_corners=False)
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(h, 1))))
        return self.head((h * torch.sigmoid(gate)).mean((2, 3)))


class Recurrent(nn.Module):
    """Two layers of an LSTM, both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(6, 4, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        out, _ = self.recurrent(x)
        return self.head(out[:, -1])


class EinsumAttention(nn.Module):
    """Attention from parameter lists, scaled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.projections = nn.ParameterList([nn.Parameter(torch.randn(2, 6, 3)) for _ in range(3)])
        self.out, self.head = nn.Parameter(torch.randn(2, 3, 6)), nn.Linear(6, CLASSES)

    def forward(self, x):
        q, k, v = (torch.einsum("bne,hef->bhnf", x, w) for w in self.projections)
        q *= 3**-0.5
        weights = torch.einsum("bhnf,bhmf->bhnm", q, k).softmax(-1)
        h = torch.einsum("bhnf,hfe->bne", torch.einsum("bhnm,bhmf->bhnf", weights, v), self.out)
        return self.head((x + h).mean(1))


class LayerDrop(nn.Module):
    """Layers left out by random numbers of Python, as in Hugging Face's models, or of numpy."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(4)])
        self.head, self.draw = nn.Linear(6, CLASSES), draw

    def forward(self, x):
        for layer in self.layers:
            if not self.training or self.draw() > 0.5:
                x = x + torch.tanh(layer(x))
        return self.head(x)


class Bert(nn.Module):
    """The parts of a Hugging Face encoder that were refused: padding, positions, softmax in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(9, 6, padding_idx=0), nn.Embedding(5, 6)
        self.register_buffer("position_ids", torch.arange(5).unsqueeze(0))
        self.query, self.key, self.value = (nn.Linear(6, 6) for _ in range(3))
        self.norm, self.drop, self.head = nn.LayerNorm(6), nn.Dropout(0.1), nn.Linear(6, CLASSES)

    def positions(self, ids):
        return self.position_ids

    def forward(self, ids):
        h = self.drop(self.words(ids) + self.places(self.positions(ids)))
        q, k, v = (
            layer(h).view(ids.shape[0], -1, 2, 3).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = torch.matmul(q, k.transpose(-1, -2)) / 3**0.5
        scores = scores + (1.0 - (ids != 0)[:, None, None, :].to(scores.dtype)) * -1e4
        h = self.norm(h + (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return self.head(h.mean(1))


class BertOfAnyLength(Bert):
    """The same with its positions sliced to the length of the data, which keeps torch.fx from tracing it."""

    def positions(self, ids):
        return self.position_ids[:, : ids.shape[1]]


class OfFunction(nn.Module):
    """A function of a layer's output and the input, traced or not."""

    def __init__(self, function, traced: bool = True) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.function, self.traced = function, traced

    def forward(self, x):
        if not self.traced and self.inner.weight.sum() > 1e9:
            return x
        return self.head(self.function(self.inner(x), x))


def rows(samples: int = 5, *shape: int) -> Tensor:
    return torch.randn(samples, *(shape or (6,)), generator=torch.Generator().manual_seed(1)).double()


def words() -> Tensor:
    return torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 8, 0], [6, 6, 0, 0, 0]])


def images(size: int = 8) -> Tensor:
    return rows(3, 3, size, size)


MODELS: dict[str, tuple[Any, Any]] = {
    "tied by a function": (TiedByFunction, words),
    "tied autoencoder": (TiedAutoencoder, rows),
    "a module three times": (ThreeTimes, rows),
    "a loop until it is small": (UntilSmall, rows),
    "convolutions of all kinds": (Convolutions, images),
    "LSTM": (Recurrent, lambda: rows(3, 4, 6)),
    "attention by einsum": (EinsumAttention, lambda: rows(3, 4, 6)),
    "BERT": (Bert, words),
    "BERT of any length": (BertOfAnyLength, words),
}


def built(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    x = inputs()
    return build().double().train(), x, torch.arange(len(x)) % CLASSES


@pytest.mark.parametrize("count", FORWARD)
@pytest.mark.parametrize("name", MODELS)
def test_derivatives_are_those_of_reverse_mode(name, count):
    model, x, target = built(name)
    pushforward = check(model, x, loss=cross_entropy, target=target, count=count)
    assert pushforward.fallbacks == []


@pytest.mark.parametrize("count", FORWARD)
@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_perturbed_activities_is_right(name, count):
    model, x, target = built(name)
    method = methods.find(f"forward:structure=activity,tangents={count}")
    check_step(method, model, cross_entropy, (x, target), 0)


def torchvisions() -> dict[str, tuple[Any, int]]:
    from torchvision import models
    from torchvision.models.convnext import CNBlockConfig

    return {
        "resnet": (lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=CLASSES), 32),
        "vit": (lambda: models.VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=CLASSES), 32),
        "convnext": (
            lambda: models.ConvNeXt(
                [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], 0.2, num_classes=CLASSES
            ),
            32,
        ),
        "mobilenet": (lambda: models.mobilenet_v3_small(num_classes=CLASSES, width_mult=0.25), 32),
        "swin": (
            lambda: models.SwinTransformer(
                [4, 4], 8, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.2, num_classes=CLASSES
            ),
            32,
        ),
    }


@pytest.mark.parametrize("name", ["resnet", "vit", "convnext", "mobilenet", "swin"])
def test_torchvisions_models(name):
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    torch.manual_seed(0)
    build, size = torchvisions()[name]
    model = build().double().train()
    for p in model.parameters():  # heads of zeros and scales of 1e-6 would hide what is below them
        nn.init.normal_(p, std=0.3) if not p.count_nonzero() or p.abs().max() < 1e-3 else None
    x, target = images(size), torch.arange(3) % CLASSES
    for count in FORWARD:
        assert check(model, x, loss=cross_entropy, target=target, count=count).fallbacks == []
    check_step(methods.find("forward:structure=activity"), model, cross_entropy, (x, target), 0)


def without_gradient(h: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        size = h.norm()
    return h / size * (1 + size)


FUNCTIONS = {
    "flatten by name": lambda h, x: torch.flatten(input=h, start_dim=1),
    "linear by name": lambda h, x: F.linear(input=h, weight=x[:, :6].t() @ x),
    "add by name": lambda h, x: torch.add(input=h, other=x, alpha=2),
    "matmul by name": lambda h, x: torch.matmul(input=h, other=x.t() @ x),
    "divide and round": lambda h, x: h + torch.div(h, 0.3, rounding_mode="floor"),
    "divide by what moves and round": lambda h, x: h + torch.div(h, 1 + h.abs(), rounding_mode="trunc"),
    "a vector into a layer": lambda h, x: h + F.linear(h.mean(0), x.t() @ x),
    "without gradient": without_gradient,
}


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("count", FORWARD)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_as_a_user_calls_it(name, count, traced):
    torch.manual_seed(0)
    check(OfFunction(FUNCTIONS[name], traced), rows(), loss=cross_entropy, target=rows_target(), count=count)


def rows_target() -> Tensor:
    return torch.arange(5) % CLASSES


class Pooled(nn.Module):
    """A layer that a vector goes into, whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gate, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        h = self.inner(x)
        return self.head(h * torch.sigmoid(self.gate(h.mean(0))))


@pytest.mark.parametrize("count", FORWARD)
def test_a_layer_that_a_vector_goes_into(count):
    torch.manual_seed(0)
    model, target = Pooled().double(), rows_target()
    check(model, rows(), loss=cross_entropy, target=target, count=count)
    method = methods.find(f"forward:structure=activity,tangents={count}")
    check_step(method, model, cross_entropy, (rows(), target), 0)


ISLANDS = {
    "cast": lambda h, x: h * h.float().softmax(-1).to(h.dtype),
    "softmax with a dtype": lambda h, x: h * F.softmax(h, dim=-1, dtype=torch.float32).to(h.dtype),
    "log softmax with a dtype": lambda h, x: h * torch.log_softmax(h, -1, torch.float32).double(),
}


@pytest.mark.parametrize("count", FORWARD)
@pytest.mark.parametrize("name", ISLANDS)
def test_an_island_of_float32_is_rounding(name, count):
    torch.manual_seed(0)
    model, target = OfFunction(ISLANDS[name]).double(), rows_target()
    pushforward = check(model, rows(), loss=cross_entropy, target=target, count=count, tolerance=1e-6)
    assert not pushforward.fallbacks, "the trace is the model's"
    for structure in ("gaussian", "rank-one", "activity"):
        method = methods.find(f"forward:structure={structure},tangents={count}")
        check_step(method, model, cross_entropy, (rows(), target), 0)


@pytest.mark.parametrize("chunk", [0, 1])
@pytest.mark.parametrize("count", FORWARD)
@pytest.mark.parametrize("draw", [random.random, lambda: np.random.rand()], ids=["python", "numpy"])
def test_layers_left_out_at_random_are_not_frozen(draw, count, chunk):
    torch.manual_seed(0)
    model, target = LayerDrop(draw).double().train(), rows_target()
    before = states()
    engine = check(model, rows(), loss=cross_entropy, target=target, count=count, chunk=chunk)
    assert list(engine.settled.values()) == ["it draws random numbers by itself"]
    set_states(*before)
    for spec in ("forward", f"forward:tangents={count},structure=rank-one"):
        for seed in range(4):
            check_step(methods.find(spec), model, cross_entropy, (rows(), target), seed)
    assert states() == before
    check(model.eval(), rows(), loss=cross_entropy, target=target, count=count)


@pytest.mark.parametrize("own", [random.Random(0), np.random.default_rng(0)], ids=["python", "numpy"])
def test_a_model_with_a_generator_of_its_own_is_followed(own):
    model = LayerDrop(own.random)
    model.own = own
    engine = Pushforward(model.double().train(), cross_entropy)
    derivatives(engine, drawn(model, 1), (rows(), rows_target()))
    assert list(engine.settled.values()) == ["it draws random numbers by itself"]


class Seeds(nn.Module):
    """The same noise at each call, from a seed or from a generator of its own."""

    def __init__(self, draw: Callable[[], Tensor]) -> None:
        super().__init__()
        self.head, self.draw = nn.Linear(6, CLASSES), draw

    def forward(self, x):
        return self.head(x * self.draw())


def by_a_fork() -> Tensor:
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        return torch.randn(6, dtype=torch.float64)


HELD = torch.Generator()


def by_a_generator() -> Tensor:
    return torch.randn(6, dtype=torch.float64, generator=HELD.manual_seed(5))


@pytest.mark.parametrize("draw", [by_a_fork, by_a_generator])
def test_noise_that_a_model_seeds_is_the_same_at_every_step(draw):
    torch.manual_seed(0)
    model, batch = Seeds(draw).double(), (rows(), rows_target())
    seed = torch.manual_seed
    step = methods.find("forward").prepare(model, cross_entropy, 0)
    for _ in range(4):
        with torch.no_grad():
            wanted = float(cross_entropy(model(batch[0]), batch[1]))
        assert float(step(batch, 0.1)) == pytest.approx(wanted)
    assert torch.manual_seed is seed


class EveryOther(nn.Module):
    """A layer at every other call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head, self.calls = nn.Linear(6, 6), nn.Linear(6, CLASSES), 0

    def forward(self, x):
        self.calls += 1
        return self.head(self.inner(x) if self.calls % 2 else x)


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, CLASSES)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.head(x)


def test_what_changes_from_call_to_call_is_followed():
    torch.manual_seed(0)
    pushforward = Pushforward(EveryOther().double(), cross_entropy)
    tangents = drawn(pushforward.model, 1)
    found = [derivatives(pushforward, tangents, (rows(), rows_target())) for _ in range(8)]
    for call, (value, along) in enumerate(found):
        assert torch.equal(value, found[call % 2][0])
        assert torch.equal(along, found[call % 2][1])
    assert not torch.equal(found[0][0], found[1][0])
    model = Counting()
    check(model, rows(), loss=cross_entropy, target=rows_target(), count=3, structures=("gaussian",))
    assert float(model.calls) == 1, "once a step, however many tangents"


class Later(nn.Module):
    """Another activation from its fourth call on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head, self.calls = nn.Linear(6, 6), nn.Linear(6, CLASSES), 0

    def forward(self, x):
        self.calls += 1
        h = self.inner(x)
        return self.head(h if self.calls < 4 else torch.tanh(h))


class Carries(nn.Module):
    """Adds what it saw at its last call."""

    def __init__(self, state: Any) -> None:
        super().__init__()
        self.inner, self.head, self.state = nn.Linear(6, 6), nn.Linear(6, CLASSES), state

    def forward(self, x):
        h, before = self.inner(x), self.state
        if isinstance(before, tuple):
            (before,), self.state = before, (h.detach().mean(0),)
        else:
            self.state = h.detach().mean(0)
        return self.head(h if before is None else h + before)


class Remembers(nn.Module):
    """Adds what it keeps of its calls, by `keep`, in a container or a tensor of its own."""

    def __init__(self, state: Any, keep: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.head, self.state, self.keep = nn.Linear(6, 6), nn.Linear(6, CLASSES), state, keep

    def forward(self, x):
        h = self.inner(x)
        return self.head(h + self.keep(self.state, h.detach().mean(0)))


def in_a_list(state: Any, now: Tensor) -> Tensor:
    state.append(now)
    return sum(state[:-1], torch.zeros(6, dtype=torch.float64))


def in_a_queue(state: Any, now: Tensor) -> Tensor:
    state.append(now)
    return state[0]


def in_a_dictionary(state: Any, now: Tensor) -> Tensor:
    before, state["last"] = state["last"], now
    return before


def by_counting(state: Any, now: Tensor) -> Tensor:
    state["calls"][0] += 1
    return now * state["calls"][0]


def in_an_object(state: Any, now: Tensor) -> Tensor:
    state.step += 1
    return now * state.step


def in_a_tensor(state: Any, now: Tensor) -> Tensor:
    return state.mul_(0.9).add_(now, alpha=0.1).clone()


def in_a_held_tensor(state: Any, now: Tensor) -> Tensor:
    return in_a_tensor(state["mean"], now)


class Stores(nn.Module):
    """Leaves a value for its owner to look at, counts classes at its first call, and makes a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head, self.seen, self.width = nn.Linear(6, 6), nn.Linear(6, CLASSES), None, 0

    def forward(self, x):
        self.seen = torch.tanh(self.inner(x))
        if not self.width:
            self.width, self.mask = x.shape[1], torch.ones(x.shape[1], dtype=x.dtype)
        return self.head(self.seen * self.mask)


CARRYING = {
    "a number decides": (Later, "calls"),
    "number": (lambda: Carries(0.0), "state"),
    "none": (lambda: Carries(None), "state"),
    "tensor": (lambda: Carries(torch.zeros(6, dtype=torch.float64)), "state"),
    "tuple": (lambda: Carries((torch.zeros(6, dtype=torch.float64),)), "state"),
    "list": (lambda: Remembers([], in_a_list), "state"),
    "queue": (lambda: Remembers(deque(maxlen=2), in_a_queue), "state"),
    "dictionary": (lambda: Remembers({"last": torch.zeros(6).double()}, in_a_dictionary), "state"),
    "nested": (lambda: Remembers({"calls": [0]}, by_counting), "state"),
    "object": (lambda: Remembers(SimpleNamespace(step=0), in_an_object), "state.step"),
}
WRITTEN = {
    "tensor": lambda: Remembers(torch.zeros(6).double(), in_a_tensor),
    "tensor in a dictionary": lambda: Remembers({"mean": torch.zeros(6).double()}, in_a_held_tensor),
}


@pytest.mark.parametrize("name", CARRYING)
def test_what_a_model_holds_in_its_attributes_is_not_frozen(name):
    build, attribute = CARRYING[name]
    torch.manual_seed(0)
    plain = build().double()
    engine, batch = Pushforward(copy.deepcopy(plain), cross_entropy), (rows(), rows_target())
    for _ in range(6):
        value, _ = derivatives(engine, drawn(engine.model, 2), batch)
        assert float(value) == pytest.approx(float(cross_entropy(plain(batch[0]), batch[1]).detach()))
    assert list(engine.settled.values()) == [f"it changes its own attribute ({attribute!r})"]


@pytest.mark.parametrize("name", [*CARRYING, *WRITTEN])
@pytest.mark.parametrize(
    "spec",
    [
        "forward",
        *(f"forward:{options}" for options in ("tangents=3,chunk=1", "structure=activity", "layers=one")),
        *(f"spsa:epsilon=1e-6{options}" for options in ("", ",layers=one")),
    ],
)
def test_a_step_changes_a_models_attributes_once(spec, name):
    torch.manual_seed(0)
    plain = (WRITTEN[name] if name in WRITTEN else CARRYING[name][0])().double()
    method, batch = methods.find(spec), (rows(), rows_target())
    step = method.prepare(copy.deepcopy(plain), cross_entropy, 0)
    for _ in range(5):
        value = step(batch, 0.0)
        assert float(value) == pytest.approx(float(cross_entropy(plain(batch[0]), batch[1]).detach()))


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_into_a_tensor_of_its_own_is_part_of_a_program(name):
    engine = Pushforward(WRITTEN[name]().double(), cross_entropy)
    for _ in range(2):
        derivatives(engine, drawn(engine.model, 2), (rows(), rows_target()))
    assert any(map(callable, engine.programs.values()))


@pytest.mark.parametrize("chunk", [0, 1])
def test_what_a_model_stores_without_reading_it_does_not_keep_it_from_a_program(chunk):
    torch.manual_seed(0)
    model, batch = nn.Sequential(Stores()).double(), (rows(), rows_target())
    engine = Pushforward(model, cross_entropy)
    for _ in range(3):
        value, _ = derivatives(engine, drawn(model, 2), batch, chunk)
        assert float(value) == pytest.approx(float(cross_entropy(model(batch[0]), batch[1]).detach()))
    assert list(engine.settled.values()) == [""]
    assert any(map(callable, engine.programs.values()))
    assert model[0].width == 6


class Replacing(nn.Module):
    """Scales by a mean over calls, each of which puts another buffer in the last one's place."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, CLASSES)
        self.register_buffer("mean", torch.zeros(CLASSES))

    def forward(self, x):
        z = self.head(x)
        self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        return z * (1 + self.mean)


@pytest.mark.parametrize("chunk", [0, 1])
def test_buffers_that_are_replaced_move_once_a_step(chunk):
    torch.manual_seed(0)
    model = Replacing().double()
    plain = copy.deepcopy(model)
    plain(rows())
    check(
        model,
        rows(),
        loss=cross_entropy,
        target=rows_target(),
        count=3,
        structures=("gaussian",),
        chunk=chunk,
    )
    assert torch.allclose(model.mean, plain.mean, rtol=1e-12)


@pytest.mark.parametrize("kind", ["plain", "frozen"])
def test_batch_norm_on_the_input_moves_its_statistics_once_a_step(kind):
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(6, affine=kind == "frozen")
    norm.requires_grad_(False)
    model = nn.Sequential(norm, nn.Linear(6, CLASSES)).double()
    plain = copy.deepcopy(model)
    plain(rows())
    check(model, rows(), loss=cross_entropy, target=rows_target(), count=3, structures=("gaussian",), chunk=1)
    for moved, wanted in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(moved, wanted, rtol=1e-12)


PADDED = {
    "as a layer": lambda: nn.Embedding(9, 6, padding_idx=-9),
    "as a layer, by how often": lambda: nn.Embedding(9, 6, padding_idx=0, scale_grad_by_freq=True),
    "computed from another": lambda: spectral_norm(nn.Embedding(9, 6, padding_idx=0)),
}


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("count", FORWARD)
@pytest.mark.parametrize("name", PADDED)
def test_a_padding_row_has_no_slope(name, count, traced):
    torch.manual_seed(0)
    model = nn.Sequential(PADDED[name](), Mean(traced), nn.Linear(6, CLASSES)).double().eval()
    check(model, words(), loss=cross_entropy, target=torch.arange(3), count=count)


@pytest.mark.parametrize("count", FORWARD)
def test_a_padding_row_looked_up_by_a_function(count):
    torch.manual_seed(0)
    model = LookedUp().double()
    check(model, words(), loss=cross_entropy, target=torch.arange(3), count=count)


class LookedUp(nn.Module):
    """An embedding by its function, as language models with tied weights have."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Parameter(torch.randn(9, 6)), nn.Linear(9, CLASSES)

    def forward(self, x):
        h = F.embedding(x, self.words, padding_idx=0).mean(1)
        return self.head(F.linear(h, self.words))


class Mean(nn.Module):
    """Over a sentence, padding and all."""

    def __init__(self, traced: bool) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, x):
        if not self.traced and x.sum() > 1e9:
            return x
        return x.mean(1)


class Square(torch.autograd.Function):
    """A user's own, with a forward mode and no way to be batched."""

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return 2 * x * tangent


def test_what_vmap_cannot_do_is_done_tangent_by_tangent():
    stack = rows(4, 3)
    torch.manual_seed(0)
    found = by_jvp(Context(3, {}), lambda h: F.dropout(Square.apply(h), 0.5), (Dual(stack),), {})
    torch.manual_seed(0)
    kept = F.dropout(torch.ones_like(stack[0]), 0.5)
    assert torch.allclose(found.stack[1:], 2 * stack[0] * stack[1:] * kept, rtol=1e-12)


class Autocasting(nn.Module):
    """bfloat16 by autocast inside: a trace does not hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 64), nn.Linear(64, CLASSES)

    def forward(self, x):
        with torch.autocast(x.device.type, torch.bfloat16):
            h = torch.tanh(self.inner(x))
        return self.head(h.float())


def test_autocast_is_not_lost_in_a_trace():
    torch.manual_seed(0)
    model, batch = Autocasting(), (rows().float(), rows_target())
    for spec in ("forward", "forward:structure=rank-one,tangents=3", "spsa"):
        check_step(methods.find(spec), model, cross_entropy, batch, 0)
