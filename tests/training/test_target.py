"""Targets: reached means held, and a target is one that runs did reach."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgbench.training.target import (
    FURTHER,
    HOLD,
    against_target,
    best_held,
    common_target,
    loss_asked,
    lowest_held,
)

losses = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12)


def outcome(values: list[float], target: float):
    steps = range(len(values))
    return against_target([10.0 * i for i in steps], [100 * i for i in steps], values, target)


def test_a_target_counts_from_the_first_of_three_evaluations_that_hold_it():
    found = outcome([3.0, 1.0, 2.0, 1.0, 0.9, 0.8, 2.0], 1.0)
    assert (found.reached, found.seconds, found.iterations) == (True, 30.0, 300)
    assert (found.first_hit_seconds, found.first_hit_iterations) == (10.0, 100)


def test_a_run_that_never_holds_it_is_censored_at_its_end():
    found = outcome([3.0, 1.0, 2.0, 1.0, 1.0], 1.0)
    assert (found.reached, found.seconds, found.iterations) == (False, 40.0, 400)
    assert found.first_hit_iterations == 100


def test_a_target_reached_at_the_end_of_the_budget_is_held_by_the_evaluations_that_follow():
    def found(values: list[float]):
        steps = range(len(values))
        seconds, iterations = [10.0 * i for i in steps], [100 * i for i in steps]
        return against_target(seconds, iterations, values, 1.0, further=FURTHER)

    last = found([3.0, 2.0, 1.0, 0.9, 0.9])
    assert (last.reached, last.seconds, last.resolution) == (True, 20.0, 10.0)
    late = found([3.0, 2.0, 1.1, 1.0, 0.9])
    assert (late.reached, late.seconds, late.iterations, late.first_hit_seconds) == (False, 20.0, 200, None)
    short = found([3.0, 2.0, 1.0, 0.9, math.nan])
    assert (short.reached, short.seconds, short.first_hit_seconds) == (False, 20.0, 20.0)


def test_a_run_that_never_hits_it_has_no_first_hit():
    found = outcome([3.0, 2.0], 1.0)
    assert (found.reached, found.first_hit_seconds, found.first_hit_iterations) == (False, None, None)


def test_a_loss_that_is_not_a_number_breaks_the_hold():
    assert not outcome([1.0, 1.0, math.nan, 1.0, 1.0], 2.0).reached


@given(losses, st.floats(1e-3, 1e3))
def test_the_first_hit_is_never_after_the_held_one(values, target):
    found = outcome(values, target)
    assert found.reached == any(max(values[i : i + HOLD]) <= target for i in range(len(values) - HOLD + 1))
    if found.reached:
        assert found.first_hit_seconds is not None
        assert found.first_hit_seconds <= found.seconds


@given(losses)
def test_the_lowest_held_loss_is_reached_and_nothing_below_it_is(values):
    lowest = lowest_held(values)
    if len(values) < HOLD:
        assert lowest == math.inf
        return
    assert outcome(values, lowest).reached
    assert not outcome(values, math.nextafter(lowest, 0)).reached


def test_what_is_not_finite_is_not_held():
    assert lowest_held([5.0, 4.0, 3.0, math.inf, 1.0]) == 5.0
    assert lowest_held([math.nan] * 5) == math.inf


@given(st.lists(losses, min_size=1, max_size=5))
def test_every_run_that_made_progress_reaches_the_common_target_and_none_starts_there(runs):
    target = common_target(runs)
    if target is None:
        return
    assert all(outcome(r, target).reached for r in runs if lowest_held(r) < r[0])
    assert all(target < r[0] for r in runs)


def test_common_target_is_the_worst_of_the_best_rounded_up_to_three_digits():
    runs = [[3.0, 0.12341, 0.12341, 0.12341], [3.0, 1.2341, 1.2341, 1.2341]]
    assert common_target(runs) == 1.24
    assert common_target(runs[:1]) == 0.124


def test_common_target_that_has_three_digits_stays_as_it_is():
    assert common_target([[3.0, 1.1, 1.1, 1.1]]) == 1.1
    assert common_target([[3.0, 0.29, 0.29, 0.29]]) == 0.29


def test_a_run_that_never_improved_has_no_say_in_the_common_target():
    better, worse = [3.0, 1.0, 1.0, 1.0], [3.0, 5.0, math.nan]
    assert common_target([better, worse]) == 1.0


@pytest.mark.parametrize(
    "runs", [[[3.0, 5.0, 6.0, 7.0]], [[3.0, 1.0]], [[2.3019, 2.3016, 2.3016, 2.3016]], []], ids=str
)
def test_there_is_no_common_target_without_progress(runs):
    assert common_target(runs) is None


@pytest.mark.parametrize("asked", ["auto", "backprop-best"])
def test_a_computed_target_that_is_no_better_than_chance_is_none(asked):
    runs = [[2.5, 2.41, 2.41, 2.41]]
    assert loss_asked(asked, runs, runs) == 2.41
    assert loss_asked(asked, runs, runs, chance=2.303) is None
    assert loss_asked("2.41", runs, runs, chance=2.303) == 2.41, "one that was given stays"


def test_best_held_is_a_loss_that_most_runs_reached():
    runs = [[3.0] * 3, [2.0] * 3, [1.0] * 3, [0.5] * 3]
    assert best_held(runs) == 2.0
    assert best_held(runs[:3]) == 2.0


def test_best_held_of_diverged_runs_is_none():
    assert best_held([[math.nan] * 4] * 2) is None
    assert best_held([]) is None


def test_a_share_is_how_far_the_median_run_of_the_reference_has_come():
    runs = [[3.0, *[best] * HOLD] for best in (0.9, 1.0, 2.0)]
    assert loss_asked("50%", [], runs) == 2.0
    assert loss_asked("90%", [], runs) == 1.2
    assert loss_asked("100%", [], runs) == 1.0
    assert loss_asked("50%", runs, []) is None


def test_the_way_begins_at_chance_where_the_first_loss_is_above_it():
    runs = [[30.0, *[0.3] * HOLD]]
    assert loss_asked("50%", [], runs, chance=2.3) == 1.3
    assert loss_asked("50%", [], [[2.0, *[1.0] * HOLD]], chance=2.3) == 1.5


def test_a_reference_that_stayed_above_chance_has_gone_no_way():
    assert loss_asked("50%", [], [[30.0, *[2.4] * HOLD]] * 3, chance=2.3) is None
    learned = [30.0, *[0.3] * HOLD]
    assert loss_asked("50%", [], [learned, learned, [30.0] * 4], chance=2.3) == 1.3


@given(st.floats(0.5, 20), st.floats(1e-4, 0.9), st.sampled_from([1, 10, 50, 90, 100]))
def test_rounding_gives_up_little_of_the_way_to_a_target_however_short_it_is(start, progress, percent):
    """A model that has hardly learned would otherwise reach a target above its first loss, in no time."""
    best = start * (1 - progress)
    target = loss_asked(f"{percent}%", [], [[start, *[best] * HOLD]])
    assert target is not None
    made = (start - target) / (start - best)
    assert 0.94 * percent <= 100 * made <= percent * (1 + 1e-6)
    reference = loss_asked("backprop-best", [], [[start, *[best] * HOLD]])
    assert reference is not None
    assert best <= reference <= best + 0.06 * (start - best)
