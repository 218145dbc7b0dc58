"""Interleaved timing on a clock whose every second is scripted."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from fgbench.measurement.interleave import (
    LEAD_IN_STEPS,
    WARM_UP_MAX_ROUNDS,
    WARM_UP_WINDOW,
    run_rounds,
    steady,
    warm_up,
    with_block,
    with_fitting_block,
)
from tests.builders import FakeClock, ScriptedArm, steady_arm

FOREVER = 1e30


def timed(arms: list[ScriptedArm], clock: FakeClock, rounds: int, steps: int = 1, seed: int = 0) -> list:
    return list(run_rounds([a.arm(steps) for a in arms], clock, rounds, random.Random(seed)))


def test_each_arm_runs_its_lead_in_and_its_steps_once_a_round():
    clock = FakeClock()
    arms = [steady_arm(name, clock, 1.0) for name in "abc"]
    timed(arms, clock, rounds=4, steps=5)
    assert [arm.calls for arm in arms] == [4 * (5 + LEAD_IN_STEPS)] * 3


def test_lead_in_steps_are_not_timed():
    clock = FakeClock()
    # The first step after another arm costs 100: only the lead-in sees it.
    arms = [ScriptedArm(n, clock, lambda _c, call: 100.0 if call % 3 == 0 else 1.0) for n in "ab"]
    rounds = timed(arms, clock, rounds=4, steps=2)
    assert {sample.seconds for samples in rounds for sample in samples} == {1.0}


def test_a_sample_says_what_it_is():
    clock = FakeClock()
    rounds = timed([steady_arm("a", clock, 0.5), steady_arm("b", clock, 2.0)], clock, rounds=2, steps=4)
    assert [[s.position for s in samples] for samples in rounds] == [[0, 1], [0, 1]]
    assert [{s.round for s in samples} for samples in rounds] == [{0}, {1}]
    assert {(s.arm, s.seconds, s.steps, s.warm_up, s.device_seconds) for r in rounds for s in r} == {
        ("a", 0.5, 4, False, None),
        ("b", 2.0, 4, False, None),
    }
    assert [s.arm for s in rounds[0]] == [s.arm for s in rounds[1]][::-1]


def test_a_round_is_given_as_soon_as_it_is_done():
    clock = FakeClock()
    arm = steady_arm("a", clock, 1.0)
    rounds = run_rounds([arm.arm(3)], clock, 10, random.Random(0))
    next(rounds)
    assert arm.calls == 3 + LEAD_IN_STEPS


def test_steps_double_until_a_block_is_long_enough():
    clock = FakeClock()

    def steps(seconds: float, block_seconds: float, minimum: int) -> int:
        return with_block(steady_arm("a", clock, seconds).arm(), clock, block_seconds, minimum).steps

    assert steps(1.0, block_seconds=1, minimum=1) == 1
    assert steps(1.0, block_seconds=5, minimum=1) == 8
    assert steps(1.0, block_seconds=25, minimum=10) == 40
    assert steps(9.0, block_seconds=5, minimum=10) == 10


class TestWarmUp:
    def warmed(self, arms: list[ScriptedArm], clock: FakeClock, max_seconds: float = FOREVER) -> list:
        return list(warm_up([a.arm() for a in arms], clock, random.Random(0), max_seconds))

    def test_ends_as_soon_as_two_windows_of_steady_arms_agree(self):
        clock = FakeClock()
        rounds = self.warmed([steady_arm("a", clock, 1.0), steady_arm("b", clock, 3.0)], clock)
        assert len(rounds) == 2 * WARM_UP_WINDOW
        assert all(sample.warm_up for samples in rounds for sample in samples)

    def test_waits_for_the_slowest_arm_to_settle(self):
        clock = FakeClock()
        # 10 compiling calls are 5 rounds of lead-in and step.
        slow = ScriptedArm("slow", clock, lambda _c, call: 50.0 if call < 10 else 1.0)
        rounds = self.warmed([steady_arm("a", clock, 1.0), slow], clock)
        assert len(rounds) > 2 * WARM_UP_WINDOW
        last = [s.seconds for samples in rounds[-WARM_UP_WINDOW:] for s in samples]
        assert set(last) == {1.0}, last

    def test_ends_after_its_rounds_where_nothing_settles(self):
        clock = FakeClock()
        worse = ScriptedArm("a", clock, lambda _c, call: 2.0**call)
        assert len(self.warmed([worse], clock)) == WARM_UP_MAX_ROUNDS

    def test_ends_when_its_time_is_up_but_not_before_a_window_is_full(self):
        clock = FakeClock()
        worse = ScriptedArm("a", clock, lambda _c, call: 2.0**call)
        assert len(self.warmed([worse], clock, max_seconds=1e-6)) == WARM_UP_WINDOW
        clock = FakeClock()
        worse = ScriptedArm("a", clock, lambda _c, call: 1.0 + call)
        rounds = self.warmed([worse], clock, max_seconds=100.0)
        assert WARM_UP_WINDOW < len(rounds) < 2 * WARM_UP_WINDOW, len(rounds)

    @pytest.mark.parametrize(
        ("before", "after", "agree"), [(1.0, 1.09, True), (1.0, 1.2, False), (1.2, 1.0, False)]
    )
    def test_agreement_is_medians_within_a_tenth(self, before, after, agree):
        assert steady([[before] * WARM_UP_WINDOW + [after] * WARM_UP_WINDOW]) == agree

    def test_medians_that_noise_drives_apart_agree(self):
        before, after = [1.0, 1.5, 1.0, 1.5], [1.3, 0.9, 0.9, 1.3]
        assert steady([before + after])
        assert not steady([[b + 1 for b in before] + after])

    def test_noise_alone_is_called_unsteady_in_at_most_six_of_a_hundred_and_half_the_time_always(self):
        noise = np.random.default_rng(0).lognormal(0, 0.3, (4000, 2 * WARM_UP_WINDOW))
        assert sum(not steady([seconds]) for seconds in noise) / 4000 < 0.06
        halved = noise**0.3 * ([2.0] * WARM_UP_WINDOW + [1.0] * WARM_UP_WINDOW)
        assert not any(steady([seconds]) for seconds in halved)

    def test_one_stray_block_does_not_matter(self):
        assert steady([[1.0] * (2 * WARM_UP_WINDOW - 1) + [30.0]])

    def test_one_unsteady_arm_is_enough_to_go_on(self):
        flat, rising = [1.0] * 8, [1.0] * 4 + [2.0] * 4
        assert not steady([flat, rising])


class TestDrift:
    """What interleaving is for: a machine that slows down while it measures, a true ratio of 1.15."""

    TRUE = 1.15

    def drifting(self, seed: int) -> tuple[FakeClock, list[ScriptedArm]]:
        noise = random.Random(seed)

        def cost(seconds: float):
            # 20 % slower by the end of about 100 s, 1 % noise, now and then a block 30 % too long.
            return lambda clock, _call: (
                seconds
                * (1 + 0.002 * clock.now)
                * noise.lognormvariate(0, 0.01)
                * (1.3 if noise.random() < 0.03 else 1)
            )

        clock = FakeClock()
        return clock, [ScriptedArm("a", clock, cost(1.0)), ScriptedArm("b", clock, cost(self.TRUE))]

    def ratio_interleaved(self, seed: int) -> float:
        clock, arms = self.drifting(seed)
        rounds = timed(arms, clock, rounds=24, seed=seed)
        by_arm = [{s.arm: s.seconds for s in samples} for samples in rounds]
        return median(r["b"] / r["a"] for r in by_arm)

    def ratio_in_sequence(self, seed: int) -> float:
        clock, arms = self.drifting(seed)
        one, other = (
            [samples[0].seconds for samples in timed([arm], clock, rounds=24, seed=seed)] for arm in arms
        )
        return median(other) / median(one)

    def test_interleaved_order_gives_the_true_ratio(self):
        found = [self.ratio_interleaved(seed) for seed in range(20)]
        assert abs(median(found) / self.TRUE - 1) < 0.005, median(found)
        assert max(abs(r / self.TRUE - 1) for r in found) < 0.02, found

    def test_sequential_order_would_not(self):
        found = [self.ratio_in_sequence(seed) for seed in range(20)]
        assert min(abs(r / self.TRUE - 1) for r in found) > 0.05, found

    def test_an_effect_of_being_second_falls_on_both_arms_alike(self):
        clock = FakeClock()
        since_other = {"last": ""}

        def second_is_dearer(name: str, seconds: float):
            def cost(_clock: FakeClock, call: int) -> float:
                if call % 2 == 0:  # the lead-in: from here on this arm is the one that runs
                    since_other["first"] = since_other["last"] == ""
                    since_other["last"] = name if since_other["first"] else ""
                    return seconds
                return seconds * (1.0 if since_other["first"] else 1.04)

            return cost

        arms = [
            ScriptedArm("a", clock, second_is_dearer("a", 1.0)),
            ScriptedArm("b", clock, second_is_dearer("b", self.TRUE)),
        ]
        rounds = [{s.arm: s.seconds for s in samples} for samples in timed(arms, clock, rounds=40)]
        assert median(r["b"] / r["a"] for r in rounds) == pytest.approx(self.TRUE, rel=1e-3)


def test_a_block_holds_whole_cycles_of_steps_that_differ():
    """Steps of 1, 2 and 3 seconds in turn: every block of whole cycles takes 2 seconds a step."""
    clock = FakeClock()
    scripted = ScriptedArm("layers", clock, lambda _c, call: 1.0 + call % 3)
    arm = replace(scripted.arm(), cycle=3)
    assert with_block(arm, clock, 10.0, minimum=1).steps == 6
    assert with_fitting_block(replace(arm, steps=3), clock, share=11.0, shortest=0.1, longest=8.0).steps == 6
    rounds = run_rounds([with_block(arm, clock, 10.0, minimum=1)], clock, 4, random.Random(0))
    assert {s.seconds for samples in rounds for s in samples} == {2.0}
