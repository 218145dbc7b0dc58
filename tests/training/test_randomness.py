"""A trainee's own random state."""

from __future__ import annotations

import torch

from fgbench.training.randomness import OwnRandomness


def drawn(randomness: OwnRandomness) -> torch.Tensor:
    with randomness.in_force():
        return torch.rand(3)


def test_two_of_the_same_seed_draw_the_same_whoever_draws_between_them():
    a, b = (OwnRandomness(1, torch.device("cpu")) for _ in range(2))
    first = [drawn(a), drawn(a)]
    torch.rand(5)
    assert all(torch.equal(x, y) for x, y in zip(first, [drawn(b), drawn(b)], strict=True))
    assert not torch.equal(*first)


def test_the_callers_state_stays_as_it_was():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    drawn(OwnRandomness(1, torch.device("cpu")))
    assert torch.equal(torch.rand(3), expected)
