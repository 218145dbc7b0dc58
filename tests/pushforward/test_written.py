"""What moves is written into tensors that did not move before, and into views of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.builders import cross_entropy
from tests.pushforward.checks import check, steps_are_right
from tests.pushforward.test_users_models import OfFunction, rows, rows_target


def row_by_row(h: Tensor, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for i in range(len(x)):
        out[i] = h[i] * x[i]
    return out


def into_rows(h: Tensor, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    for i in range(len(x)):
        out[i][1:] = h[i, :-1]
    return out + h


def into_what_was_shown_before(h: Tensor, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    left, right = out[:, :3], out[:, 3:]
    out[:, 2:5] = h[:, 2:5]
    right[:, 1] += h[:, 0]
    return torch.cat([right, left], 1) + out


def into_a_diagonal(h: Tensor, x: Tensor) -> Tensor:
    square = x.t() @ x
    square.diagonal().copy_(h.mean(0))
    return h @ square


def into_another_shape(h: Tensor, x: Tensor) -> Tensor:
    out = torch.zeros(x.numel(), dtype=x.dtype)
    out.view(x.shape).add_(h, alpha=2)
    out.view(x.shape)[0] = x[0]
    return out.view(x.shape)


def added_at_places(h: Tensor, x: Tensor) -> Tensor:
    return torch.zeros_like(x).index_add_(0, torch.tensor([1, 0, 1, 4, 2]), h)


def filled(h: Tensor, x: Tensor) -> Tensor:
    return h * torch.ones_like(x).fill_(h.mean())


WRITES = [
    *(row_by_row, into_rows, into_what_was_shown_before, into_a_diagonal, into_another_shape),
    *(added_at_places, filled),
]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("function", WRITES)
def test_it_is_what_reverse_mode_says_and_part_of_a_program(function, count):
    torch.manual_seed(0)
    engine = check(OfFunction(function), rows(), loss=cross_entropy, target=rows_target(), count=count)
    assert not engine.fallbacks
    assert list(engine.settled.values()) == [""]


class Fills(nn.Module):
    """Gives what it has filled."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(len(x), 4, dtype=x.dtype)
        out[:, 1:] = torch.tanh(self.inner(x))[:, :3]
        return out


def added_up(output: Tensor, target: Tensor) -> Tensor:
    return torch.zeros((), dtype=output.dtype).add_(cross_entropy(output, target))


@pytest.mark.parametrize("loss", [cross_entropy, added_up])
@pytest.mark.parametrize("spec", ["forward:structure=rank-one", "forward:structure=activity"])
def test_a_models_output_and_its_loss_may_be_such_tensors(spec, loss):
    torch.manual_seed(0)
    step = steps_are_right(spec, Fills().double(), loss, given=[(rows(), rows_target())] * 3)
    assert loss is added_up or not step.notes(), "each sample has a derivative of its own"


def by_columns(h: Tensor, x: Tensor) -> Tensor:
    out = torch.zeros_like(x.t())
    out[0][1:] = h[1:, 0]
    return out.t()


def test_a_view_of_what_does_not_lie_row_by_row_is_refused():
    with pytest.raises(NotImplementedError, match="into a view"):
        check(OfFunction(by_columns), rows(), loss=cross_entropy, target=rows_target())
