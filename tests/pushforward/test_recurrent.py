"""Recurrent networks by their rules, against reverse mode."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from fgbench import methods
from fgbench.methods.steps.oracle import check_step
from tests.pushforward.checks import check
from tests.pushforward.test_rules import normal

OPTIONS = {
    "plain": {},
    "batch first": {"batch_first": True},
    "two layers, both ways, units dropped": {"bidirectional": True, "num_layers": 2, "dropout": 0.3},
    "without biases": {"bias": False},
}
KINDS = (nn.LSTM, nn.GRU, nn.RNN)


class Recurrent(nn.Module):
    """All that the network gives: the states of every step, and those at the end."""

    def __init__(self, network: nn.Module, inner: bool) -> None:
        super().__init__()
        self.inner, self.network = nn.Linear(4, 4) if inner else nn.Identity(), network

    def forward(self, x):
        states, last = self.network(self.inner(x))
        ends = last if isinstance(last, tuple) else (last,)
        return states, *ends


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_by_rules_alone_and_what_reverse_mode_says(kind, options):
    torch.manual_seed(0)
    x = normal(3, 2, 4)
    assert check(Recurrent(kind(4, 3, **OPTIONS[options]), True), x).fallbacks == []
    assert check(Recurrent(kind(4, 3, **OPTIONS[options]), False), x).fallbacks == []


@pytest.mark.parametrize("trained", ["hh", "bias_ih", "inner"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_stands_still(kind, trained):
    torch.manual_seed(0)
    model = Recurrent(kind(4, 3), True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained in name)
    assert check(model, normal(3, 2, 4)).fallbacks == []


def test_relu_and_a_state_of_the_users_own():
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.begin = nn.RNN(4, 3, nonlinearity="relu"), nn.Parameter(torch.randn(1, 2, 3))

        def forward(self, x):
            return self.network(x, self.begin)[0]

    torch.manual_seed(0)
    assert check(Given(), normal(3, 2, 4)).fallbacks == []


CELLS = {
    "lstm": lambda **options: nn.LSTMCell(4, 3, **options),
    "gru": lambda **options: nn.GRUCell(4, 3, **options),
    "rnn": lambda **options: nn.RNNCell(4, 3, **options),
    "rnn with relu": lambda **options: nn.RNNCell(4, 3, nonlinearity="relu", **options),
}


@pytest.mark.parametrize("options", [{}, {"bias": False}], ids=["with biases", "without"])
@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_that_a_loop_calls(name, inner, options):
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.cell = nn.Linear(4, 4) if inner else nn.Identity(), CELLS[name](**options)

        def forward(self, x):
            state, found = None, []
            for part in self.inner(x):
                state = self.cell(part, state)
                found.append(state[0] if name == "lstm" else state)
            return torch.stack(found)

    torch.manual_seed(0)
    assert check(Loop(), normal(3, 2, 4)).fallbacks == []


def test_steps_of_an_lstm_in_single_precision_are_right():
    """Torch's own kernel for it on a CPU has no forward mode."""
    torch.manual_seed(0)
    model = nn.Sequential(Recurrent(nn.LSTM(4, 8, batch_first=True), False), Last(), nn.Linear(8, 3))
    batch = normal(2, 5, 4).float(), torch.tensor([0, 2])
    for spec in ("forward:structure=rank-one,tangents=3", "forward:structure=activity"):
        check_step(methods.find(spec), model, F.cross_entropy, batch, 0)


class Last(nn.Module):
    def forward(self, given):
        return given[0][:, -1]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_packed_sequence_is_refused(kind):
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = kind(4, 3, batch_first=True)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
            return self.inner(packed)[0].data

    with pytest.raises(NotImplementedError, match="leave its sequences padded"):
        check(Packed(), normal(2, 3, 4))
