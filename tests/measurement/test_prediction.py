"""Times of counted work on machines of known rates, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fgbench.measurement.cost import Work
from fgbench.measurement.prediction import Device, Predicted, predict

# 2 s of products, 3 s of memory, 1 s of random numbers and 4 s of launches.
WORK = Work(
    flops=200, bytes=1, operations=8, products=frozenset(), product_bytes=10, other_bytes=30, random_numbers=5
)
DEVICE = Device(flops=100.0, bytes=10.0, launch=0.5, random=5.0)


def test_a_queue_hides_the_host_or_waits_for_it():
    assert predict(WORK, DEVICE) == Predicted(6.0, "memory")
    assert predict(WORK, replace(DEVICE, launch=1.0)) == Predicted(8.0, "host")


def test_without_a_queue_the_host_comes_on_top():
    assert predict(WORK, replace(DEVICE, queued=False)) == Predicted(10.0, "host")
    assert predict(WORK, replace(DEVICE, queued=False, launch=0.1)) == Predicted(6.8, "memory")


def test_products_take_their_flops_or_their_bytes():
    assert predict(replace(WORK, product_bytes=70), DEVICE) == Predicted(11.0, "products")


def test_random_numbers_are_drawn_as_fast_as_they_are_written_where_nothing_is_said():
    device = replace(DEVICE, random=None)
    assert predict(WORK, device).seconds == pytest.approx(5 + 5 * 4 / 10)
    assert predict(replace(WORK, random_numbers=50), device).bound_by == "random numbers"
