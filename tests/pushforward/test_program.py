"""Models with a forward of their own, at once and in chunks: the same truth on every path."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from fgbench.pushforward.engine import Pushforward
from tests.pushforward.checks import by_reverse_mode, check, derivatives, drawn, smooth

STRUCTURES = ("gaussian", "rank-one")


class Residual(nn.Module):
    """Parameters of its own beside layers, and a block used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.shift, self.head = nn.Parameter(torch.randn(1, 4)), nn.Parameter(torch.randn(3, 4))
        self.drop = nn.Dropout(0.3)

    def block(self, x):
        return x + self.drop(torch.tanh(self.norm(self.inner(x))))

    def forward(self, x, scale=2.0, mask=None):
        h = self.block(self.block(x) * scale + self.shift)
        return F.linear(h if mask is None else h * mask, self.head)


class Branching(Residual):
    """Control flow on data, and a kernel that is computed."""

    def forward(self, x):
        h = self.block(x)
        if h.sum() > -1e9:
            h = self.block(h)
        h = F.conv1d(h.unsqueeze(1), self.shift.unsqueeze(0)[:, :, :3], padding=1).squeeze(1)
        return F.linear(h + self.shift, self.head)


class LooksAtTypes(nn.Module):
    """Asks what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) if isinstance(x, torch.Tensor) else self.layer(-x)


class ReusesAfterInPlace(nn.Module):
    """What an in-place layer was given is read again."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.relu = nn.Linear(4, 4), nn.ReLU(inplace=True)

    def forward(self, x):
        h = self.layer(x)
        return self.relu(h) + h * h


def inputs(samples: int = 5) -> torch.Tensor:
    return torch.randn(samples, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Residual, Branching, LooksAtTypes, ReusesAfterInPlace])
def test_every_path_gives_the_derivative(kind, training):
    torch.manual_seed(0)
    assert check(kind().train(training), inputs(), count=3).fallbacks == []


def test_frozen_parameters():
    torch.manual_seed(0)
    model = Branching()
    for name in ("inner.weight", "head", "norm.bias"):
        model.get_parameter(name).requires_grad_(False)
    check(model, inputs(), count=2)


@pytest.mark.parametrize("kind", [Residual, Branching])
def test_chunks_change_nothing(kind):
    stepped = {}
    for chunk in (0, 1, 2, 7):
        torch.manual_seed(0)
        model = kind().double()
        tangents = drawn(model, 5)
        value, along = derivatives(Pushforward(model, smooth), tangents, (inputs(), inputs()), chunk)
        after = torch.rand(1)
        stepped[chunk] = torch.cat(
            [value.view(1), along, *(b.double().view(-1) for b in model.buffers()), after]
        )
    for chunk, result in stepped.items():
        assert torch.allclose(result, stepped[0], rtol=1e-12), chunk


def test_training_and_evaluation_one_after_the_other():
    torch.manual_seed(0)
    model = Residual().double()
    pushforward = Pushforward(model, smooth)
    for training in (True, False, True):
        model.train(training)
        tangents = drawn(model, 1)
        _, wanted = by_reverse_mode(model, smooth, (inputs(), inputs()), tangents)
        _, found = derivatives(pushforward, tangents, (inputs(), inputs()))
        assert torch.allclose(found, wanted, rtol=1e-9)


def test_batches_of_other_sizes_one_after_the_other():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    pushforward = Pushforward(model, smooth)
    for samples in (5, 2, 1):
        x, tangents = inputs(samples), drawn(model, 2)
        _, wanted = by_reverse_mode(model, smooth, (x, x), tangents)
        assert torch.allclose(derivatives(pushforward, tangents, (x, x))[1], wanted, rtol=1e-9)


@pytest.mark.parametrize("name", ["resnet18", "vit"])
@pytest.mark.parametrize("training", [True, False])
def test_torchvisions_models_run_by_rules_alone(name, training):
    models = pytest.importorskip("torchvision.models", exc_type=(ImportError, RuntimeError))
    torch.manual_seed(0)
    if name == "resnet18":
        model = models.resnet18(num_classes=5)
    else:
        model = models.VisionTransformer(32, 16, 2, 2, 16, 32, dropout=0.1, num_classes=5)
    nn.init.normal_(list(model.modules())[-1].weight)  # a head of zeros would hide everything below it
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    pushforward = check(
        model.train(training), x, loss=F.cross_entropy, target=torch.tensor([0, 3, 1]), count=2
    )
    assert pushforward.fallbacks == []


def test_a_model_whose_output_does_not_move_has_no_slope():
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return x * 2

    model = Constant().double()
    _, along = derivatives(Pushforward(model, smooth), drawn(model, 2), (inputs(), inputs()))
    assert along.tolist() == [0, 0]


def test_parameters_are_left_as_they_were():
    torch.manual_seed(0)
    for kind in (Residual, Branching):
        model = kind().double()
        before = {n: p.clone() for n, p in model.named_parameters()}
        derivatives(Pushforward(model, smooth), drawn(model, 2), (inputs(), inputs()))
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name])
            assert parameter.grad is None
            assert parameter.requires_grad


def test_each_choice_of_perturbed_parameters_is_looked_at_once():
    torch.manual_seed(0)
    runs = []

    class Counted(Residual):
        def forward(self, x, **more):
            runs.append(1)
            return super().forward(x, **more)

    model, batch = Counted().double(), (inputs(), inputs())
    pushforward = Pushforward(model, smooth)
    names = [name for name, _ in model.named_parameters()]
    for turn in range(2):
        for name in names:
            for other, parameter in model.named_parameters():
                parameter.requires_grad_(other == name)
            tangents = drawn(model, 2)
            _, wanted = by_reverse_mode(model, smooth, batch, tangents)
            before = len(runs)
            _, found = derivatives(pushforward, tangents, batch)
            assert torch.allclose(found, wanted, rtol=1e-9), name
            looks = (2 if name == names[0] else 1) if turn == 0 else 0
            assert len(runs) - before == looks, "a course that is the same at every call is learned once"


def _asked_of_positions(x):
    positions = torch.arange(x.shape[1]).expand(len(x), -1)
    return (positions.diff(dim=1, prepend=positions[:, :1] - 1) != 1).any()


def _asked_after_a_conversion_of_what_is_read(x):
    positions = torch.arange(x.shape[1])
    _ = (x * 2).to(x.dtype)  # the same tensor, and nothing is written
    return (positions < 0).any()


def _asked_of_random_numbers(x):
    return torch.rand(1)[0] > 2


def _asked_of_inputs(x):
    return (x > 100).any()


def _asked_of_what_inputs_are_written_into(x):
    seen = torch.zeros(4, len(x), dtype=x.dtype)
    seen.transpose(0, 1).add_(x.detach())
    return (seen > 100).any()


def _asked_of_what_an_entry_is_written_into(x):
    seen = torch.zeros(4, dtype=x.dtype)
    seen[0] = x.detach()[0, 0]
    return (seen > 100).any()


@pytest.mark.parametrize(
    ("ask", "settled"),
    [
        (_asked_of_positions, True),
        (_asked_after_a_conversion_of_what_is_read, True),
        (_asked_of_random_numbers, False),
        (_asked_of_inputs, False),
        (_asked_of_what_inputs_are_written_into, False),
        (_asked_of_what_an_entry_is_written_into, False),
    ],
)
def test_a_course_is_settled_where_only_shapes_decide_it(ask, settled):
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(-x if ask(x) else x)

    pushforward = check(Asks(), inputs())
    assert [why == "" for why in pushforward.settled.values()] == [settled]
    assert [note.partition(" (")[0] for note in pushforward.followed] == [
        "the model's Python runs in every step"
    ] * (not settled)
    model = pushforward.model
    for batch in ((1000 * inputs(), inputs()), (inputs(3), inputs(3))):
        tangents = drawn(model, 2)
        _, wanted = by_reverse_mode(model, smooth, batch, tangents)
        assert torch.allclose(derivatives(pushforward, tangents, batch)[1], wanted, rtol=1e-9)


VIEWS = {
    "view": lambda h: h.view(-1),
    "reshape": lambda h: h.reshape(6, 4),
    "flatten": lambda h: h.flatten(),
    "unflatten": lambda h: h.unflatten(1, (2, 3)),
    "transpose": lambda h: h.t(),
    "permute": lambda h: h.permute(1, 0),
    "movedim": lambda h: h.movedim(0, 1),
    "select": lambda h: h[1],
    "slice": lambda h: h[:, 1:3],
    "narrow": lambda h: h.narrow(0, 1, 2),
    "unsqueeze": lambda h: h.unsqueeze(0),
    "squeeze": lambda h: h[None].squeeze(0),
    "expand": lambda h: h[None].expand(2, -1, -1),
    "chunk": lambda h: h.chunk(2, 1)[0],
    "split": lambda h: h.split(2, 1)[1],
    "unbind": lambda h: h.unbind(0)[2],
    "diagonal": lambda h: h.diagonal(),
    "itself": lambda h: h.contiguous(),
}
OVERWRITING = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": nn.functional.silu,
    "relu": torch.relu,
    "times": lambda v: v * 2,
    "plus": lambda v: v + 1,
    "square": lambda v: v**2,
    "product": lambda v: v * torch.sin(v),
    "sum": lambda v: torch.sin(v) + v,
}


@pytest.mark.parametrize("name", OVERWRITING)
@pytest.mark.parametrize("view", VIEWS)
def test_a_rule_overwrites_nothing_that_is_seen_elsewhere(view, name):
    """A rule may write over a value that nothing else reads; a view of one that is read is no such value."""

    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(5, 6)

        def forward(self, x):
            base = self.inner(x) * 1.5
            first = OVERWRITING[name](VIEWS[view](base))
            other = OVERWRITING[name](VIEWS[view](base))
            return first, other, base * base

    torch.manual_seed(0)
    x = torch.randn(4, 5, dtype=torch.float64)
    engine = check(Seen(), x, structures=("gaussian", "rank-one", "gaussian"))
    assert engine.fallbacks == []
    assert any(map(callable, engine.programs.values())), "the last two ran as a program"
