"""Straight-line calls of torch: the same steps as by rules, and little beside their arithmetic."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from fgbench import methods
from fgbench.pushforward import engine
from fgbench.pushforward.flat import flat
from tests.pushforward.checks import steps_are_right


class Everything(nn.Module):
    """Weights that are computed of parameters, a buffer that counts, units that drop, statistics, tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.4)
        self.scale, self.kernel = nn.Parameter(torch.ones(6, 1)), nn.Parameter(torch.randn(6, 6))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        h = self.drop(torch.relu(self.norm(self.layer(x))))
        weight = self.scale * self.kernel / self.kernel.norm(dim=1, keepdim=True)
        h = F.linear(h, weight) * (1 + self.calls)
        return h[:, torch.tensor([0, 2, 4])] + h[:, 1::2]


def test_a_trace_notes_shapes_and_makes_no_fake_tensors(monkeypatch):
    """Those were three quarters of its time."""
    made: list[object] = []
    monkeypatch.setattr(FakeTensorMode, "__init__", lambda mode, *_given, **_named: made.append(mode))
    weight, x = nn.Parameter(torch.randn(3, 4)), torch.randn(5, 4)
    code = flat(lambda x: torch.stack(F.linear(x, weight).relu().split(2)[:2]).sum(), x)
    assert torch.equal(code(None, x), torch.stack(F.linear(x, weight).relu().split(2)[:2]).sum())
    assert not made


def batch(samples: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (samples,), generator=generator)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "spec",
    ["structure=rank-one", "tangents=3", "tangents=2,structure=sphere", "tangents=2,combine=projection"],
)
def test_a_flat_pass_takes_the_steps_that_rules_take(spec, training, monkeypatch):
    torch.manual_seed(0)
    start = Everything().double().train(training)
    ends, flattened = [], []
    for longest in (engine.LONGEST_FLAT, 0):
        monkeypatch.setattr(engine, "LONGEST_FLAT", longest)
        model = copy.deepcopy(start)
        step = methods.find(f"forward:{spec}").prepare(model, F.cross_entropy, 0)
        torch.manual_seed(2)
        for samples in (8, 8, 3, 8, 3):
            step(batch(samples), 0.01)
        flattened.append(any(step.straight.values()))
        ends.append(torch.cat([t.flatten() for t in (*model.parameters(), *model.buffers())]))
    assert flattened == [True, False]
    assert torch.allclose(ends[0], ends[1], rtol=1e-10)
    assert not torch.allclose(
        ends[0], torch.cat([t.flatten() for t in (*start.parameters(), *start.buffers())])
    )


class Moved(nn.Module):
    """Keeps a mean, whose memory is another one after each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x):
        z = self.layer(x)
        self.mean.data = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        return z * (1 + self.mean)


@pytest.mark.parametrize("kind", ["slopes drawn at random, which vmap cannot do", "memory moved by data"])
def test_what_straight_line_code_would_lose_runs_by_rules(kind):
    torch.manual_seed(0)
    model = Moved() if kind.startswith("memory") else nn.Sequential(nn.Linear(4, 3), nn.RReLU(0.1, 0.9))
    step = methods.find("forward:structure=rank-one,tangents=3").prepare(model.double(), F.cross_entropy, 0)
    for _ in range(4):
        before = copy.deepcopy(model)
        reference = copy.deepcopy(model)
        torch.manual_seed(3)
        wanted = F.cross_entropy(reference(batch()[0]), batch()[1])
        gradient = torch.autograd.grad(wanted, list(reference.parameters()))
        torch.manual_seed(3)
        assert abs(float(step(batch(), 0.1)) - float(wanted)) < 1e-9
        estimate = step.expected(gradient, before, batch())
        for old, new, e in zip(before.parameters(), model.parameters(), estimate, strict=True):
            assert torch.allclose(old - 0.1 * e, new, rtol=0, atol=1e-9)


def test_an_update_looks_where_weights_are_only_after_a_pass_that_may_move_them():
    model = nn.Linear(4, 3).double()
    step = methods.find("forward:structure=rank-one").prepare(model, F.cross_entropy, 0)
    for _ in range(3):
        step(batch(), 0.1)
    step.update.places = []  # which it would not find again
    step(batch(), 0.1)
    assert step.update.traces == 1
    vector_to_parameters(parameters_to_vector(model.parameters()), model.parameters())
    step(batch(), 0.1)
    assert step.update.traces == 2


def test_views_of_what_stays_are_taken_once():
    weight = torch.randn(3, 4)

    def function(x):
        return (x @ weight.t()).view(-1, 3)[1:] * weight.t()[0] + (x @ weight.t())[1:]

    x = torch.randn(5, 4)
    straight = flat(function, x)
    called = []

    class Calls(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            called.append(func.__name__)
            return func(*args, **(kwargs or {}))

    with Calls():
        found = straight(None, x)
    assert torch.allclose(found, function(x))
    assert "t" not in called, "a parameter's view is taken when the code is made"
    weight.mul_(2)
    assert torch.allclose(straight(None, x), function(x)), "what it knows stays in its place and may change"


def test_a_pass_of_few_operations_is_few_calls():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    step = methods.find("forward:structure=rank-one").prepare(model, F.cross_entropy, 0)
    step(batch(), 0.0)
    (straight,) = step.straight.values()
    calls = [v for v in straight.__globals__.values() if callable(v) and v is not straight]
    assert len(calls) <= 16, "one layer and a loss; written by hand it is ten"


def _written_by_an_index(h):
    out = h.clone()
    out[..., torch.tensor([0, 2])] = 0.5
    out[:, torch.tensor([1, 3])] += h[:, :2]
    return out


def _put(h):
    return torch.zeros_like(h).index_put((torch.tensor([0, 1]),), h[:2])


def _blocks(h):
    return torch.block_diag(h[:, :2], h[:, 2:])[: len(h), :2].repeat(1, 2)


def _in_classes(h):
    return h * F.one_hot(h.argmax(1), 4)


@pytest.mark.parametrize("spec", ["forward", "forward:tangents=3"])
@pytest.mark.parametrize("function", [_written_by_an_index, _put, _blocks, _in_classes])
def test_what_cannot_be_made_straight_runs_as_before(function, spec):
    class Of(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(function(self.inner(x)))

    torch.manual_seed(0)
    steps_are_right(spec, Of().double(), given=[batch()] * 4)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_is_one_number_at_every_step(reduction):
    torch.manual_seed(0)
    given = [(batch()[0], torch.rand(8, 3, dtype=torch.float64)) for _ in range(3)]
    loss = nn.BCEWithLogitsLoss(reduction=reduction)
    step = steps_are_right("forward", nn.Linear(4, 3).double(), loss, given=given)
    assert any(step.straight.values())
    assert step.value.shape == ()


def test_an_index_with_gaps_is_called_as_it_is():
    x, places = torch.randn(3, 4), torch.tensor([0, 2])

    def function(x):
        out = x.clone()
        out[:, places] = 2 * x[:, places]
        return out

    assert torch.equal(flat(function, x)(None, x), function(x))
