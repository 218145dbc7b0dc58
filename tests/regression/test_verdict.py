"""The gate: what it says of ratios whose truth is known, and how often it is wrong."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from fgbench.regression.baseline import CONDITIONS, Cell
from fgbench.regression.verdict import Answer, check, exit_code

CELL = Cell(
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
    floor=0.01,
    rounds=60,
    contract="c0",
    fgbench="0.1.0",
)
TOLERANCE = 0.05


def scaled(factor: float, cell: Cell = CELL, **changes: object) -> Cell:
    figures = {name: factor * getattr(cell, name) for name in ("ratio", "low", "high")}
    return dataclasses.replace(cell, **figures, **changes)


def answer(now: Cell, **options: object) -> Answer:
    (verdict,) = check([CELL], [now], TOLERANCE, **options)  # type: ignore[arg-type]
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
    (verdict,) = check([CELL], [dataclasses.replace(CELL, low=1.7, high=2.35)], TOLERANCE)
    assert verdict.answer is Answer.INCONCLUSIVE
    assert verdict.low < 1 < verdict.high
    assert verdict.smallest > 0.2


def test_the_change_s_interval_is_welch_s():
    now = dataclasses.replace(scaled(1.02), low=2.0, high=2.0808, degrees=2)
    (verdict,) = check([CELL], [now], TOLERANCE)
    errors = [CELL.error, now.error]
    assert errors[0] == pytest.approx(math.log(2.02 / 1.98) / 2 / stats.t.ppf(0.975, 4))
    total = sum(e**2 for e in errors)
    degrees = total**2 / (errors[0] ** 4 / 4 + errors[1] ** 4 / 2)
    reach = stats.t.ppf(0.975, degrees) * math.sqrt(total)
    assert math.log(verdict.high / verdict.change) == pytest.approx(reach)


def test_the_margin_is_the_machine_s_own_floor_where_that_is_larger():
    noisy = scaled(1.10, floor=0.15)
    assert answer(noisy) is not Answer.REGRESSED
    (verdict,) = check([CELL], [noisy], TOLERANCE)
    assert verdict.margin == 0.15
    (verdict,) = check([dataclasses.replace(CELL, floor=0.15)], [scaled(1.10)], TOLERANCE)
    assert verdict.margin == 0.15


@pytest.mark.parametrize("name", CONDITIONS)
def test_other_conditions_do_not_compare_silently(name):
    other = dataclasses.replace(CELL, **{name: "other"})
    (verdict,) = check([CELL], [other], TOLERANCE)
    assert verdict.answer is Answer.INVALID
    assert f"{name} {getattr(CELL, name)} then, other now" in verdict.why
    (let_through,) = check([CELL], [other], TOLERANCE, allow_mismatch=True)
    assert let_through.answer is Answer.PASS
    assert name in let_through.why, "it is said all the same"


def test_another_contract_is_another_thing():
    (verdict,) = check([CELL], [dataclasses.replace(CELL, contract="c1")], TOLERANCE)
    assert (verdict.answer, "another contract" in verdict.why) == (Answer.INVALID, True)


def test_the_partner_is_the_one_of_the_same_conditions():
    compiled = dataclasses.replace(CELL, execution="compile", ratio=9.0, low=8.9, high=9.1)
    (verdict, new) = check([CELL], [compiled, CELL], TOLERANCE)
    assert (verdict.answer, verdict.change) == (Answer.PASS, 1.0)
    assert (new.answer, new.cell) == (Answer.NEW, compiled)


def test_a_fault_and_a_missing_row_are_invalid_and_a_new_row_is_listed():
    faulty = dataclasses.replace(CELL, fault="A/A failed", ratio=math.nan, low=math.nan, high=math.nan)
    assert answer(faulty) is Answer.INVALID
    (missing,) = check([CELL], [], TOLERANCE)
    assert (missing.answer, "missing" in missing.why) == (Answer.INVALID, True)
    other = dataclasses.replace(CELL, depth=9)
    assert [v.answer for v in check([CELL], [CELL, other], TOLERANCE)] == [Answer.PASS, Answer.NEW]


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
    cells = [dataclasses.replace(CELL, depth=i + 1) for i in range(len(factors))]
    pairs = zip(cells, factors, strict=True)
    now = [scaled(factor, cell) for cell, factor in pairs if factor is not None]
    verdicts = check(cells, now, TOLERANCE)
    assert exit_code(verdicts) == code
    assert exit_code(verdicts, inconclusive_passes=True) == (0 if code == 3 else code)


def test_new_rows_alone_are_nothing_measured():
    assert exit_code(check([], [CELL], TOLERANCE)) == 4


def drawn(rng: np.random.Generator, truth: float, spread: float, processes: int = 5) -> Cell:
    """A cell as a run of so many processes finds it: normal logs, a t-interval over them."""
    logs = rng.normal(math.log(truth), spread, processes)
    reach = stats.t.ppf(0.975, processes - 1) * logs.std(ddof=1) / math.sqrt(processes)
    low, ratio, high = (math.exp(logs.mean() + sign * reach) for sign in (-1, 0, 1))
    return dataclasses.replace(CELL, ratio=ratio, low=low, high=high, degrees=processes - 1)


@pytest.mark.parametrize("spread", [0.005, 0.02, 0.05])
def test_nothing_changed_is_hardly_ever_a_regression(spread):
    rng = np.random.default_rng(0)
    answers = [
        check([drawn(rng, 2.0, spread)], [drawn(rng, 2.0, spread)], TOLERANCE)[0].answer for _ in range(500)
    ]
    assert answers.count(Answer.REGRESSED) <= 10, "2 in 100"


def test_at_the_margin_itself_one_in_forty_is_one():
    rng = np.random.default_rng(1)
    at = 2.0 * (1 + TOLERANCE)
    answers = [
        check([drawn(rng, 2.0, 0.01)], [drawn(rng, at, 0.01)], TOLERANCE)[0].answer for _ in range(2000)
    ]
    # 2.5 % of 2000; four standard errors are 28.
    assert answers.count(Answer.REGRESSED) == pytest.approx(50, abs=28)


def test_a_tenth_slower_is_found_where_processes_differ_by_a_hundredth():
    rng = np.random.default_rng(2)
    answers = [
        check([drawn(rng, 2.0, 0.01)], [drawn(rng, 2.2, 0.01)], TOLERANCE)[0].answer for _ in range(500)
    ]
    assert answers.count(Answer.REGRESSED) >= 475


@pytest.mark.parametrize("spread", [0.01, 0.03])
def test_the_smallest_regression_that_it_names_is_found_in_four_of_five(spread):
    rng = np.random.default_rng(3)
    pairs = [(drawn(rng, 2.0, spread), drawn(rng, 2.0, spread)) for _ in range(400)]
    named = float(np.median([check([a], [b], TOLERANCE)[0].smallest for a, b in pairs]))
    found = sum(
        check([drawn(rng, 2.0, spread)], [drawn(rng, 2.0 * (1 + named), spread)], TOLERANCE)[0].answer
        is Answer.REGRESSED
        for _ in range(1000)
    )
    # The interval's width is itself drawn: the median names it to within some percent of power.
    assert 0.7 < found / 1000 < 0.9
