"""The gate: what it says of ratios whose truth is known, and how often it is wrong."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from fgbench.measurement.statistics import Estimate, t_quantile
from fgbench.regression.checking import (
    LOOKS,
    Answer,
    Change,
    CheckedRatio,
    change_of,
    check,
    exit_code,
    settled,
)
from fgbench.regression.entry import CONDITIONS, Entry, pooled
from fgbench.store.run_folder import NAMES

ENTRY = Entry(
    arch="mlp",
    dataset="digits",
    depth=8,
    width=1024,
    batch=64,
    optimizer="sgd",
    method="forward",
    reference="backprop",
    device="a processor",
    dtype="float32",
    threads="2",
    execution="eager",
    torch="2.15",
    ratio=2.0,
    low=1.98,
    high=2.02,
    degrees=4,
    runs=5,
    spread=0.008,
    within=0.004,
    floor=0.01,
    rounds=60,
    contract="c0",
    fgbench="0.1.0",
)
TOLERANCE = 0.05


def scaled(factor: float, entry: Entry = ENTRY, **changes: object) -> Entry:
    figures = {name: factor * getattr(entry, name) for name in ("ratio", "low", "high")}
    return dataclasses.replace(entry, **figures, **changes)


def answer(now: Entry, **options: object) -> Answer:
    (verdict,) = check([ENTRY], [now], TOLERANCE, **options)  # type: ignore[arg-type]
    return verdict.answer


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, Answer.PASS),
        (1.02, Answer.PASS),
        (0.98, Answer.PASS),
        (1.05, Answer.INCONCLUSIVE),
        (1.10, Answer.REGRESSED),
        (0.90, Answer.IMPROVED),
    ],
)
def test_the_whole_interval_of_the_change_decides(factor, expected):
    assert answer(scaled(factor)) is expected


def test_a_wide_interval_is_not_clear_and_says_what_it_could_have_seen():
    (verdict,) = check([ENTRY], [dataclasses.replace(ENTRY, spread=0.2)], TOLERANCE)
    assert verdict.answer is Answer.INCONCLUSIVE
    assert verdict.low < 1 < verdict.high
    assert verdict.smallest > 0.2


def test_the_change_s_interval_is_student_s_over_runs():
    """Against scipy, from the runs themselves."""
    then, now = [2.0, 2.02, 1.99, 2.03], [2.1, 2.13]
    change = change_of(*(pooled([one_run(ratio) for ratio in runs]) for runs in (then, now)))
    found = stats.ttest_ind(np.log(now), np.log(then)).confidence_interval(0.95)
    assert change.ratio.low == pytest.approx(math.exp(found.low))
    assert change.ratio.high == pytest.approx(math.exp(found.high))


def test_runs_that_agree_by_luck_are_no_surer_than_their_processes():
    then, now = (pooled([one_run(ratio, within=0.02)] * 3) for ratio in (2.0, 2.1))
    change = change_of(then, now)
    assert change.error == pytest.approx(0.02 * math.sqrt(2 / 3))
    assert change.degrees == 4


def test_with_one_run_each_nothing_is_told_apart_and_the_line_says_what_would():
    single = dataclasses.replace(ENTRY, runs=1, spread=0.0)
    for factor in (0.5, 1.0, 2.0):
        (verdict,) = check([single], [scaled(factor, single)], TOLERANCE)
        assert verdict.answer is Answer.INCONCLUSIVE
        assert "--repeat" in verdict.why
        assert math.isnan(verdict.smallest), "no regression would have been found"
        assert verdict.low < verdict.change < verdict.high


def test_between_single_runs_the_interval_is_welch_s():
    one, other = (dataclasses.replace(ENTRY, runs=1, spread=0.0, **own) for own in ({}, {"degrees": 2}))
    total = 2 * ENTRY.within**2
    degrees = total**2 / (ENTRY.within**4 / 4 + ENTRY.within**4 / 2)
    reach = stats.t.ppf(0.975, degrees) * math.sqrt(total)
    assert math.log(change_of(one, other).ratio.high) == pytest.approx(reach)


def test_the_margin_is_the_machine_s_own_floor_where_that_is_larger():
    noisy = scaled(1.10, floor=0.15)
    assert answer(noisy) is not Answer.REGRESSED
    (verdict,) = check([ENTRY], [noisy], TOLERANCE)
    assert verdict.margin == 0.15
    (verdict,) = check([dataclasses.replace(ENTRY, floor=0.15)], [scaled(1.10)], TOLERANCE)
    assert verdict.margin == 0.15


def test_what_passes_is_within_the_tolerance_however_noisy_the_machine():
    """The A/A floor of 9.5 % once let a change of [1.07, 1.09] pass a tolerance of 5 %."""
    worse = dataclasses.replace(ENTRY, runs=20, spread=0.005)
    for then, now in (
        (dataclasses.replace(worse, floor=0.095), worse),
        (worse, scaled(1, worse, floor=0.095)),
    ):
        (verdict,) = check([then], [scaled(1.08, now)], TOLERANCE)
        assert 1.05 < verdict.low < verdict.high < 1.095
        assert verdict.answer is Answer.INCONCLUSIVE
        for part in ("9.5%", "5.0%", "--repeat", "--tolerance"):
            assert part in verdict.why
    (level,) = check([dataclasses.replace(worse, floor=0.095)], [worse], TOLERANCE)
    assert level.answer is Answer.INCONCLUSIVE, "nor can no change be told from one of 5 %"
    (wider,) = check([dataclasses.replace(worse, floor=0.095)], [worse], 0.1)
    assert (wider.answer, wider.why) == (Answer.PASS, "")


@pytest.mark.parametrize("floor", [0.01, 0.04, 0.08, 0.2])
def test_a_regression_as_large_as_the_tolerance_hardly_ever_passes(floor):
    rng = np.random.default_rng(6)
    answers = []
    for _ in range(300):
        then, now = drawn(rng, 2.0, 0.01, runs=5), drawn(rng, 2.0 * (1 + TOLERANCE), 0.01)
        (verdict,) = check([dataclasses.replace(then, floor=floor)], [now], TOLERANCE)
        answers.append(verdict.answer)
    # 2.5 % at most of 300; four standard errors are 11.
    assert answers.count(Answer.PASS) <= 18


@pytest.mark.parametrize("name", CONDITIONS)
def test_other_conditions_do_not_compare_silently(name):
    then = dataclasses.replace(ENTRY, data="d0")
    other = dataclasses.replace(then, **{name: "other"})
    (verdict,) = check([then], [other], TOLERANCE)
    assert verdict.answer is Answer.INVALID
    said = f"{NAMES.get(name, name)} {getattr(then, name) or 'none'} then, other now"
    assert said in verdict.why
    (let_through,) = check([then], [other], TOLERANCE, allow_mismatch=True)
    assert let_through.answer is Answer.PASS
    assert said in let_through.why, "it is said all the same"


def test_torchs_patch_version_is_a_condition():
    then = dataclasses.replace(ENTRY, data="d0", torch="2.15.0")
    (verdict,) = check([then], [dataclasses.replace(then, torch="2.15.1")], TOLERANCE)
    assert (verdict.answer, "torch 2.15.0 then, 2.15.1 now" in verdict.why) == (Answer.INVALID, True)


def test_that_best_chose_otherwise_is_said_and_compares():
    then = dataclasses.replace(ENTRY, data="d0", chosen="eager / eager")
    (verdict,) = check([then], [dataclasses.replace(then, chosen="compile / eager")], TOLERANCE)
    assert verdict.answer is Answer.PASS
    assert verdict.why == "chosen eager / eager then, compile / eager now"


def test_another_contract_is_another_thing():
    (verdict,) = check([ENTRY], [dataclasses.replace(ENTRY, contract="c1")], TOLERANCE)
    assert (verdict.answer, "another contract" in verdict.why) == (Answer.INVALID, True)


def test_the_partner_is_the_one_of_the_same_conditions():
    compiled = dataclasses.replace(ENTRY, execution="compile", ratio=9.0, low=8.9, high=9.1)
    (verdict, new) = check([ENTRY], [compiled, ENTRY], TOLERANCE)
    assert (verdict.answer, verdict.change) == (Answer.PASS, 1.0)
    assert (new.answer, new.entry) == (Answer.NEW, compiled)


@pytest.mark.parametrize("here", ["one", "other"])
def test_the_partner_of_one_machine_is_not_given_to_another(here):
    held = [dataclasses.replace(ENTRY, device=device) for device in ("one", "other")]
    verdicts = check(held, [dataclasses.replace(ENTRY, device=here)], TOLERANCE)
    assert {v.entry.device: v.answer for v in verdicts}[here] is Answer.PASS
    assert sorted(v.answer.value for v in verdicts) == ["INVALID", "PASS"]


def test_a_fault_and_a_missing_row_are_invalid_and_a_new_row_is_listed():
    faulty = dataclasses.replace(ENTRY, fault="A/A failed", ratio=math.nan, low=math.nan, high=math.nan)
    assert answer(faulty) is Answer.INVALID
    (missing,) = check([ENTRY], [], TOLERANCE)
    assert (missing.answer, "missing" in missing.why) == (Answer.INVALID, True)
    other = dataclasses.replace(ENTRY, depth=9)
    assert [v.answer for v in check([ENTRY], [ENTRY, other], TOLERANCE)] == [Answer.PASS, Answer.NEW]


@pytest.mark.parametrize(
    ("factors", "code"),
    [
        ([1.0, 0.9], 0),
        ([1.0, 1.2], 1),
        ([1.05, 1.2], 1),
        ([1.05, 1.0], 3),
        ([None, 1.0], 4),
        ([None, 1.05], 4),
        ([None, 1.2], 1),
        ([], 4),
    ],
)
def test_exit_codes(factors, code):
    entries = [dataclasses.replace(ENTRY, depth=i + 1) for i in range(len(factors))]
    pairs = zip(entries, factors, strict=True)
    now = [scaled(factor, entry) for entry, factor in pairs if factor is not None]
    verdicts = check(entries, now, TOLERANCE)
    assert exit_code(verdicts) == code
    assert exit_code(verdicts, inconclusive_passes=True) == (0 if code == 3 else code)


def test_new_rows_alone_are_nothing_measured():
    assert exit_code(check([], [ENTRY], TOLERANCE)) == 4


PROCESSES = 5


def one_run(ratio: float, within: float = 0.0, degrees: int = PROCESSES - 1) -> Entry:
    """An entry as a single run finds it, its processes' standard error `within`."""
    reach = math.exp(t_quantile(degrees) * within)
    figures = {"ratio": ratio, "low": ratio / reach, "high": ratio * reach}
    return dataclasses.replace(ENTRY, **figures, runs=1, spread=0.0, within=within, degrees=degrees)


def drawn(rng: np.random.Generator, truth: float, between: float, runs: int = 1) -> Entry:
    """Runs that differ by `between`, each of processes that differ by half of it."""
    entries = []
    for _ in range(runs):
        logs = rng.normal(math.log(truth) + rng.normal(0, between), between / 2, PROCESSES)
        entries.append(one_run(math.exp(logs.mean()), logs.std(ddof=1) / math.sqrt(PROCESSES)))
    return pooled(entries)


def looked_at(rng: np.random.Generator, now: float, between: float) -> Answer:
    """The answer as `check --run` comes by it: other runs as long as it is not settled."""
    baseline, runs = drawn(rng, 2.0, between, runs=5), []
    for looks in range(1, LOOKS + 1):
        runs.append(drawn(rng, now, between))
        (verdict,) = check([baseline], [pooled(runs)], TOLERANCE)
        if settled(verdict, looks):
            break
    return verdict.answer


@pytest.mark.parametrize("between", [0.005, 0.02, 0.05, 0.1])
def test_nothing_changed_is_hardly_ever_a_regression(between):
    rng = np.random.default_rng(0)
    answers = [looked_at(rng, 2.0, between) for _ in range(500)]
    assert answers.count(Answer.REGRESSED) <= 10, "2 in 100"


def test_processes_of_one_run_each_would_have_cried_wolf():
    """What the interval over runs is for: runs 5 % apart, processes 1 %, nothing changed."""
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(500):
        then, now = (one_run(2.0 * math.exp(rng.normal(0, 0.05)), 0.01 / math.sqrt(PROCESSES)) for _ in "ab")
        false += change_of(then, now).ratio.low > 1 + TOLERANCE
    assert false > 50


def test_at_the_margin_itself_one_run_says_so_one_time_in_forty():
    rng = np.random.default_rng(2)
    at = 2.0 * (1 + TOLERANCE)
    pairs = ((drawn(rng, 2.0, 0.02, runs=5), drawn(rng, at, 0.02)) for _ in range(2000))
    answers = [check([then], [now], TOLERANCE)[0].answer for then, now in pairs]
    # 2.5 % of 2000; four standard errors are 28.
    assert answers.count(Answer.REGRESSED) == pytest.approx(50, abs=28)


@pytest.mark.parametrize("between", [0.005, 0.01])
def test_a_tenth_slower_is_found_where_runs_differ_by_a_hundredth(between):
    rng = np.random.default_rng(3)
    answers = [looked_at(rng, 2.2, between) for _ in range(500)]
    assert answers.count(Answer.REGRESSED) >= 475


@pytest.mark.parametrize("between", [0.01, 0.03])
def test_the_smallest_regression_that_it_names_is_found_in_four_of_five(between):
    rng = np.random.default_rng(4)

    def pair(truth: float) -> CheckedRatio:
        return check([drawn(rng, 2.0, between, runs=5)], [drawn(rng, truth, between)], TOLERANCE)[0]

    named = float(np.median([pair(2.0).smallest for _ in range(400)]))
    found = sum(pair(2.0 * (1 + named)).answer is Answer.REGRESSED for _ in range(1000))
    # The interval's width is itself drawn: the median names it to within some percent of power.
    assert 0.7 < found / 1000 < 0.9


def test_power_is_how_often_it_is_found():
    rng = np.random.default_rng(5)
    error, degrees = 1 / math.sqrt(6), 5
    samples = rng.normal(1.2, 1.0, (4000, 6))
    low = samples.mean(axis=1) - stats.t.ppf(0.975, 5) * samples.std(axis=1, ddof=1) / math.sqrt(6)
    wanted = Change(Estimate(1.0), error, degrees).power(1.2)
    assert wanted == pytest.approx((low > 0).mean(), abs=0.03)


@pytest.mark.parametrize(
    ("answer", "looks", "enough"),
    [
        (Answer.PASS, 1, True),
        (Answer.IMPROVED, 1, True),
        (Answer.INVALID, 1, True),
        (Answer.REGRESSED, 1, False),
        (Answer.REGRESSED, 2, True),
        (Answer.INCONCLUSIVE, 2, False),
        (Answer.INCONCLUSIVE, LOOKS, True),
    ],
)
def test_a_regression_is_said_after_two_runs_and_nothing_goes_on_for_ever(answer, looks, enough):
    assert settled(CheckedRatio(answer, ENTRY), looks) is enough
