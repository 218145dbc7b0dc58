"""Ratios from scripted samples whose truth is known to the digit."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from fgbench.summary.live import LiveRatios
from fgbench.summary.ratios import Ratio, ratios

ROLES = {"base": ("base", "base"), "aa": ("aa", "backprop")}


def samples(
    processes: list[dict[str, float]], rounds: int = 6, drift: float = 0.0, warm_up: float = 1.0
) -> pd.DataFrame:
    """Every arm of every process in every round; `drift` scales all arms of a round alike."""
    rows: list[dict[str, Any]] = []
    for process, arms in enumerate(processes):
        for number in range(-1, rounds):
            for position, (arm, seconds) in enumerate(arms.items()):
                role, method = ROLES.get(arm, ("method", arm))
                cold = number < 0
                rows.append(
                    {
                        "process": process,
                        "round": max(number, 0),
                        "position": position,
                        "role": role,
                        "method": method,
                        "warm_up": cold,
                        "seconds": seconds * (warm_up if cold else 1 + drift * number),
                    }
                )
    return pd.DataFrame(rows)


def by_arm(found: list[Ratio]) -> dict[tuple[str, str], Ratio]:
    return {(r.role, r.method): r for r in found}


ONE = {"base": 1.0, "backprop": 4.0, "forward": 6.0, "aa": 4.0}


def test_r_is_over_the_base_and_the_ratio_over_the_reference():
    found = by_arm(ratios(samples([ONE]), "backprop", pilot=1))
    forward = found["method", "forward"]
    assert forward.seconds == 6.0
    assert forward.r.value == pytest.approx(6.0)
    assert forward.ratio.value == pytest.approx(1.5)
    assert (forward.ratio.low, forward.ratio.high) == pytest.approx((1.5, 1.5))
    assert (forward.processes, forward.rounds) == (1, 6)


def test_a_ratio_is_taken_inside_its_round_so_that_drift_cancels():
    found = by_arm(ratios(samples([ONE], drift=0.5), "backprop", pilot=1))
    assert found["method", "forward"].ratio.low == pytest.approx(1.5)
    assert found["method", "forward"].ratio.high == pytest.approx(1.5)


def test_the_reference_over_itself_is_1_without_doubt_and_the_a_a_repeat_is_measured():
    arms = {**ONE, "aa": 4.4}
    found = by_arm(ratios(samples([arms, ONE]), "backprop", pilot=2))
    itself, repeat = found["method", "backprop"], found["aa", "backprop"]
    assert (itself.ratio.value, itself.ratio.low, itself.ratio.high) == (1.0, 1.0, 1.0)
    assert repeat.ratio.value == pytest.approx(math.sqrt(1.1))
    assert repeat.ratio.low < 1 < repeat.ratio.high


def test_over_processes_it_is_a_t_interval_of_the_logs_of_their_medians():
    ratios_of = [1.4, 1.5, 1.7]
    table = samples([{**ONE, "forward": 4 * r} for r in ratios_of])
    found = by_arm(ratios(table, "backprop", pilot=3))["method", "forward"].ratio
    logs = pd.Series(ratios_of).map(math.log)
    low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert found.value == pytest.approx(math.exp(logs.mean()))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))


def test_after_a_second_stage_the_spread_is_the_pilots():
    table = samples([{**ONE, "forward": 4 * r} for r in (1.4, 1.6, 1.5, 9.0)])
    found = by_arm(ratios(table, "backprop", pilot=3))["method", "forward"].ratio
    logs = pd.Series([1.4, 1.6, 1.5, 9.0]).map(math.log)
    reach = stats.t.ppf(0.975, 2) * logs[:3].std() / 2
    assert math.log(found.high / found.value) == pytest.approx(reach)


def test_within_is_what_a_single_process_would_claim():
    table = samples([{**ONE, "forward": 4 * r} for r in (1.4, 1.5, 1.7)])
    within = by_arm(ratios(table, "backprop", pilot=3))["method", "forward"].within
    assert within.value == pytest.approx(1.5)
    # 18 rounds: the 5th smallest and largest.
    assert (within.low, within.high) == pytest.approx((1.4, 1.7))


def test_warm_up_is_left_out():
    plain = ratios(samples([ONE, ONE]), "backprop", pilot=2)
    warm = ratios(samples([ONE, ONE], warm_up=50.0), "backprop", pilot=2)
    assert str(warm) == str(plain)  # as words: no nan equals itself


def test_warm_up_alone_is_nothing():
    table = samples([ONE], rounds=0)
    assert ratios(table, "backprop", pilot=1) == []


def test_too_few_rounds_of_one_process_have_no_interval():
    found = by_arm(ratios(samples([ONE], rounds=5), "backprop", pilot=1))["method", "forward"]
    assert found.ratio.value == pytest.approx(1.5)
    assert not found.ratio.has_interval
    assert found.row()["ratio_low"] is None


def test_without_the_reference_there_is_r_and_no_ratio():
    arms = {"base": 1.0, "forward": 6.0}
    found = by_arm(ratios(samples([arms]), "backprop", pilot=1))["method", "forward"]
    assert found.r.value == pytest.approx(6.0)
    row = found.row()
    assert (row["ratio"], row["ratio_low"], row["ratio_within_high"]) == (None, None, None)


def test_without_the_base_there_is_a_ratio_and_no_r():
    found = by_arm(ratios(samples([{"backprop": 4.0, "forward": 6.0}]), "backprop", pilot=1))
    assert found["method", "forward"].ratio.value == pytest.approx(1.5)
    assert math.isnan(found["method", "forward"].r.value)


def test_a_method_that_failed_in_one_process_is_estimated_from_the_others():
    table = samples([ONE, {k: v for k, v in ONE.items() if k != "forward"}, ONE])
    found = by_arm(ratios(table, "backprop", pilot=3))["method", "forward"]
    assert (found.processes, found.rounds) == (2, 12)
    assert found.ratio.value == pytest.approx(1.5)


def test_one_stray_round_does_not_move_it():
    table = samples([ONE], rounds=9)
    stray = (table["method"] == "forward") & (table["round"] == 4)
    table.loc[stray, "seconds"] = 600.0
    found = by_arm(ratios(table, "backprop", pilot=1))["method", "forward"].ratio
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))


def test_rows_have_exactly_the_columns_of_the_table():
    from fgbench.store.schema import TABLES

    row = ratios(samples([ONE]), "backprop", pilot=1)[0].row()
    assert set(TABLES["ratios"]) - set(row) == {"group", "reference", "stopped"}


class TestLive:
    def test_shows_the_ratio_so_far(self):
        live = LiveRatios("backprop")
        assert str(live) == ""
        for _ in range(6):
            live.add({arm: seconds for arm, seconds in ONE.items() if arm not in ("base", "aa")})
        assert str(live) == "forward 1.50 ± 0.00 × backprop"

    def test_without_the_reference_there_is_nothing_to_show(self):
        live = LiveRatios("backprop")
        live.add({"forward": 6.0})
        assert str(live) == ""


def test_energy_is_the_methods_own_and_not_their_repeats():
    found = by_arm(ratios(samples([ONE]), "backprop", 1, {"backprop": 3.0}))
    assert found["method", "backprop"].joules == 3.0
    assert all(math.isnan(found[arm].joules) for arm in (("method", "forward"), ("aa", "backprop")))
