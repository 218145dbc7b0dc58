"""Batch order: from the seed alone, every sample at most once an epoch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgbench.training.batches import HASHED_BATCHES, BatchOrder
from tests.builders import tiny_data


def indices(order: BatchOrder, count: int) -> list[list[int]]:
    return [order.indices(i).tolist() for i in range(count)]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5))
def test_an_epoch_holds_each_sample_at_most_once(samples, batch, seed):
    batch = min(batch, samples)
    order = BatchOrder(samples, batch, seed)
    per_epoch = samples // batch
    for epoch in range(3):
        seen = [i for b in range(per_epoch) for i in order.indices(epoch * per_epoch + b).tolist()]
        assert len(seen) == len(set(seen)) == per_epoch * batch
        assert set(seen) <= set(range(samples))


def test_order_is_the_same_for_the_same_seed_and_another_for_another():
    assert indices(BatchOrder(40, 8, 1), 20) == indices(BatchOrder(40, 8, 1), 20)
    assert indices(BatchOrder(40, 8, 1), 20) != indices(BatchOrder(40, 8, 2), 20)


def test_epochs_differ():
    order = BatchOrder(40, 8, 1)
    assert indices(order, 5) != [order.indices(i).tolist() for i in range(5, 10)]


def test_any_iteration_can_be_had_without_those_before_it():
    assert BatchOrder(40, 8, 1).indices(23).tolist() == indices(BatchOrder(40, 8, 1), 24)[23]


def test_global_random_numbers_neither_move_it_nor_are_moved():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    wanted = indices(BatchOrder(40, 8, 9), 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)
    assert indices(BatchOrder(40, 8, 9), 3) == wanted


def test_batches_are_the_samples_at_the_indices():
    data, order = tiny_data(), BatchOrder(40, 8, 3)
    for (x, y), index in zip(order.batches(data, 4, 3), [order.indices(i) for i in (4, 5, 6)], strict=True):
        assert torch.equal(x, data.train_x[index])
        assert torch.equal(y, data.train_y[index])


@pytest.mark.parametrize("other", [BatchOrder(40, 8, 2), BatchOrder(41, 8, 1), BatchOrder(40, 7, 1)])
def test_digest_tells_orders_apart(other):
    assert BatchOrder(40, 8, 1).digest() == BatchOrder(40, 8, 1).digest() != other.digest()


def test_digest_looks_past_the_first_epoch():
    assert HASHED_BATCHES > 40 // 8
