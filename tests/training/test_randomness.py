"""A trainee's own random state."""

from __future__ import annotations

import random

import numpy as np
import pytest
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


def test_no_other_gpu_is_seeded(monkeypatch):
    """Its state would not be put back."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("all are seeded"))
    OwnRandomness(3, torch.device("cpu"))


def test_the_callers_state_stays_as_it_was():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    drawn(OwnRandomness(1, torch.device("cpu")))
    assert torch.equal(torch.rand(3), expected)


def test_generators_of_python_and_numpy_are_its_own_too():
    def drawn_by_others(randomness: OwnRandomness) -> tuple[float, float]:
        with randomness.in_force():
            return random.random(), float(np.random.rand())

    a, b = (OwnRandomness(1, torch.device("cpu")) for _ in range(2))
    random.seed(7)
    np.random.seed(7)
    expected = random.random(), float(np.random.rand())
    random.seed(7)
    np.random.seed(7)
    first = [drawn_by_others(a), drawn_by_others(a)]
    assert (random.random(), float(np.random.rand())) == expected, "the caller's stay as they were"
    kept = a.state()
    after = drawn_by_others(a)
    assert first == [drawn_by_others(b), drawn_by_others(b)]
    assert first[0] != first[1]
    a.restore(kept)
    assert drawn_by_others(a) == after
