"""Trainees: methods that are trained by one protocol."""

from __future__ import annotations

import math

import pytest

from fgbench.running.trainees import Protocol, trainee
from fgbench.training.loop import Budget
from tests.builders import tiny_matched


@pytest.mark.parametrize(("spec", "steps"), [("backprop", 4), ("forward", 6), ("forward:tangents=5", 2)])
def test_a_cosine_ends_with_the_last_step_that_a_methods_own_queries_allow(spec, steps):
    protocol = Protocol(Budget(math.inf, queries=12), decay="cosine", every=1)
    rate = trainee(tiny_matched(), spec, 0.5, protocol).rate
    assert [rate.at(i) for i in range(steps + 1)] == pytest.approx(
        [0.25 * (1 + math.cos(math.pi * i / steps)) for i in range(steps + 1)]
    )
