"""Frozen parameters that a forward writes into move once a step, as buffers do."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods.steps.oracle import check_step
from fgbench.pushforward import frozen
from fgbench.pushforward.context import buffers_kept
from tests.builders import cross_entropy

CLASSES = 4


def in_place(teacher, student):
    with torch.no_grad():
        teacher.mul_(0.9).add_(student, alpha=0.1)


def by_data(teacher, student):
    teacher.data.mul_(0.9).add_(student.data, alpha=0.1)


def by_other_data(teacher, student):
    teacher.data = 0.9 * teacher.data + 0.1 * student.data


class Teacher(nn.Module):
    """A layer, and a slow copy of it that each forward moves, as momentum encoders do."""

    def __init__(self, move, *, free: bool = False) -> None:
        super().__init__()
        self.student, self.head, self.move = nn.Linear(6, 6), nn.Linear(6, CLASSES), move
        self.teacher = nn.Linear(6, 6).requires_grad_(False)
        self.still = nn.Linear(6, 6).requires_grad_(False)
        self.token = nn.Parameter(torch.ones(6), requires_grad=free)  # of no layer

    def forward(self, x):
        for teacher, student in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            self.move(teacher, student)
        with torch.no_grad():
            wanted = self.teacher(x)
        found = self.student(self.still(x)) * self.token
        return self.head(found) - F.cosine_similarity(found, wanted)[:, None] * torch.arange(CLASSES)


def batch():
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).double(), torch.arange(5) % CLASSES


@pytest.mark.parametrize("move", [in_place, by_data, by_other_data])
@pytest.mark.parametrize(
    "spec", ["forward:tangents=3,chunk=1", "forward:structure=activity", "forward:layers=one", "spsa"]
)
def test_a_slow_copy_moves_once_a_step(spec, move):
    torch.manual_seed(0)
    model = Teacher(move, free=True).double()
    check_step(methods.find(spec), model, cross_entropy, batch(), 0)
    step = methods.find(spec).prepare(model, cross_entropy, 0)
    for _ in range(3):
        plain = copy.deepcopy(model)
        wanted = float(cross_entropy(plain(batch()[0]), batch()[1]).detach())
        assert float(step(batch(), 1e-3)) == pytest.approx(wanted, rel=1e-3 if spec == "spsa" else 1e-9)
        for moved, wanted in zip(model.teacher.parameters(), plain.teacher.parameters(), strict=True):
            assert torch.allclose(moved, wanted, atol=1e-3 if spec == "spsa" else 1e-12)


class AtEveryThird(Teacher):
    """Moves the copy in every third pass; what counts them is an attribute or a buffer."""

    def __init__(self, move, counter: str) -> None:
        super().__init__(lambda teacher, student: move(teacher, student) if self.calls % 3 == 0 else None)
        if counter == "buffer":
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        else:
            self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize("counter", ["attribute", "buffer"])
@pytest.mark.parametrize("move", [by_data, by_other_data])
@pytest.mark.parametrize(
    "spec",
    [
        "forward",
        "forward:tangents=3,chunk=1",
        "forward:layers=one",
        "forward:structure=activity,layers=one",
        "spsa",
    ],
)
def test_a_slow_copy_that_moves_at_every_third_step_moves_once_then(spec, move, counter):
    torch.manual_seed(0)
    model = AtEveryThird(move, counter).double()
    check_step(methods.find(spec), model, cross_entropy, batch(), 0)
    model = AtEveryThird(move, counter).double()
    step = methods.find(spec).prepare(model, cross_entropy, 0)
    begun = copy.deepcopy(model.teacher.state_dict())
    for number in range(1, 7):
        before = model.teacher.weight.detach().clone()
        student = model.student.weight.detach().clone()
        step(batch(), 1e-3)
        moved = 0.9 * before + 0.1 * student if number % 3 == 0 else before
        assert torch.allclose(model.teacher.weight, moved, atol=1e-3 if spec == "spsa" else 1e-12)
        assert int(model.calls) == number
    assert not torch.equal(model.teacher.weight, begun["weight"])


@pytest.mark.parametrize("move", [in_place, by_other_data])
def test_pytorchs_forward_mode_is_refused_where_it_may_end_the_process(move):
    model = Teacher(move).double()
    before = copy.deepcopy(model.state_dict())
    step = methods.find("forward:engine=stock").prepare(model, cross_entropy, 0)
    with pytest.raises(
        UsageError, match="a forward that writes into frozen parameters: leave engine=stock out"
    ):
        step(batch(), 1e-3)
    assert all(torch.equal(own, before[name]) for name, own in model.state_dict().items())


def test_what_no_pass_writes_into_is_not_copied():
    model = Teacher(in_place).double()
    for _ in range(2):
        before = copy.deepcopy(model.state_dict())
        with buffers_kept(model):
            model(batch()[0])
        assert all(torch.equal(own, before[name]) for name, own in model.state_dict().items())
    assert [id(p) for p in frozen._WRITTEN[model]] == [id(p) for p in model.teacher.parameters()]
