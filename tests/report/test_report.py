"""The report: digits that the interval supports, verdicts that the interval supports."""

from __future__ import annotations

import io
import math

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from fgbench.plan.config import BEST_FORWARD
from fgbench.report import _rest, show
from fgbench.report.budget import budget_table
from fgbench.report.figures import interval, number, seconds, size
from fgbench.report.sparkline import sparklines
from fgbench.report.table import caption, group_tables, legend, targets_table
from fgbench.report.words import findings
from tests.charts import made_up
from tests.report.made_up import NO_AA, REFERENCE, group


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.90, 0.99, "faster"),
        (1.01, 1.20, "slower"),
        (0.95, 1.05, "no difference that this run can tell"),
    ],
)
def test_the_verdict_needs_the_whole_interval_on_one_side_of_1(low: float, high: float, verdict: str) -> None:
    (sentence,) = findings(group(ratio=(low + high) / 2, ratio_low=low, ratio_high=high), NO_AA)
    assert f": {verdict};" in sentence


def test_a_reference_that_differs_from_itself_takes_the_verdict_back() -> None:
    aa = pd.DataFrame([{"group": REFERENCE["group"], "reference": "backprop", "ratio": 1.3}])
    (sentence,) = findings(group(ratio=0.5, ratio_low=0.4, ratio_high=0.6), aa)
    assert "no verdict, backprop differs from itself" in sentence
    assert "faster" not in sentence


def test_a_ratio_without_an_interval_gets_no_verdict() -> None:
    (sentence,) = findings(group(ratio=0.5, ratio_low=math.nan, ratio_high=math.nan), NO_AA)
    assert "too few rounds" in sentence
    assert "faster" not in sentence


def test_runs_that_missed_the_target_are_said_beside_the_time() -> None:
    (some,) = findings(group(reached=2, t_ratio=4.0, t_ratio_low=3.0, t_ratio_high=5.0), NO_AA)
    assert "not reached in 59.0 s by 1 of 3 seeds" in some
    never = {"reached": 0, "t": math.inf, "t_low": 59.0, "t_high": math.inf}
    bound = {"t_ratio": math.inf, "t_ratio_low": 20.0, "t_ratio_high": math.inf}
    (none,) = findings(group(**never, **bound), NO_AA)
    assert "validation loss 0.5 not reached in 59.0 s by 3 of 3 seeds: at least 20.0 times" in none
    assert "> 59.0 s" in rendered(group(**never, **bound), 160), "the table says the same"


def test_runs_that_diverged_are_said_to_have() -> None:
    never = {"reached": 0, "missed": 0, "missed_seconds": None, "t": math.inf, "t_low": None, "t_high": None}
    (sentence,) = findings(group(**never, **NO_RATIO), NO_AA)
    assert sentence.endswith("validation loss 0.5 never reached by 3 of 3 seeds, which diverged.")
    (some,) = findings(group(**never | {"missed": 2, "missed_seconds": 59.0}, **NO_RATIO), NO_AA)
    assert some.endswith("validation loss 0.5 not reached in 59.0 s by 2 of 3 seeds (and 1 diverged).")


def test_a_method_that_was_only_trained_is_named() -> None:
    (sentence,) = findings(group(ratio=None, t_ratio=4.0, t_ratio_low=3.0, t_ratio_high=5.0), NO_AA)
    assert "processor: forward: to validation loss 0.5 it takes 4.0 times" in sentence


@pytest.mark.parametrize(
    ("cells", "clause"),
    [
        ({"target_loss": 2.4, "t_ratio": 12.0}, "nothing was learned: validation loss 2.4 is no better than"),
        ({"runs": None, "reached": None, "target_loss": None}, "nothing was learned in 59.0 s that held"),
    ],
)
def test_no_verdict_rests_on_a_loss_at_or_above_chance(cells: dict[str, float | None], clause: str) -> None:
    (sentence,) = findings(group(**cells, lowest_loss=2.4), NO_AA)
    assert f"; {clause}" in sentence
    assert "chance, 2.30" in sentence
    assert "times the training time" not in sentence


def test_a_target_above_chance_that_was_asked_for_gives_no_verdict_but_not_that_nothing_was_learned() -> None:
    (sentence,) = findings(group(target_loss=2.4, t_ratio=12.0), NO_AA)
    assert "; no verdict: validation loss 2.4 is no better than chance, 2.30" in sentence


def test_a_method_that_learned_is_not_said_to_have_learned_nothing() -> None:
    (sentence,) = findings(group(runs=None, reached=None, target_loss=None), NO_AA)
    assert "nothing was learned" not in sentence


def test_a_method_that_stood_still_is_said_to() -> None:
    """As a pretrained start is better than chance, nothing else would tell."""
    still = {"reached": 0, "t": math.inf, "t_low": 60.0, "t_high": math.inf, "fall": 0.0}
    (sentence,) = findings(group(**still, t_ratio=math.inf, t_ratio_low=20.0, t_ratio_high=math.inf), NO_AA)
    assert sentence.endswith("at least 20.0 times the training time; its loss never fell below the first.")
    (moved,) = findings(group(fall=0.1), NO_AA)
    assert "never fell" not in moved


def test_where_there_is_no_target_runs_that_diverged_are_said_to_have_all_the_same() -> None:
    cells = {"runs": None, "reached": None, "target_loss": None, "diverged_share": 1.0, "fall": 0.0}
    assert "; training diverged with every seed; its loss never" in findings(group(**cells), NO_AA)[0]
    assert "; training diverged with 33%" in findings(group(**cells | {"diverged_share": 1 / 3}), NO_AA)[0]


NEVER = {"missed": 3, "reached": 0, "t": math.inf, "t_low": 59.0, "t_high": math.inf}
NO_RATIO = {"t_ratio": None, "t_ratio_low": None, "t_ratio_high": None}


def test_a_target_that_nobody_reached_is_said_without_a_bound() -> None:
    """As the columns of the ratios are then of objects: None is no number to compare."""
    rows = pd.DataFrame([{**REFERENCE, **NEVER, **NO_RATIO, "method": m} for m in ("backprop", "forward")])
    (sentence,) = findings(rows, NO_AA)
    assert sentence.endswith("validation loss 0.5 not reached in 59.0 s by 3 of 3 seeds.")


def test_a_target_that_was_held_at_the_start_is_not_said_to_be_missed_by_the_reference() -> None:
    (sentence,) = findings(group(t=0.0, **NO_RATIO), NO_AA)
    assert "reached by 3 of 3 seeds, and before the first step by some, so that it is no target" in sentence
    rows = pd.DataFrame([{**REFERENCE, **NEVER, **NO_RATIO}, {**REFERENCE, **NO_RATIO, "method": "forward"}])
    assert "reached by 3 of 3 seeds, and by none of backprop's" in findings(rows, NO_AA)[0]


def test_one_process_is_said_in_capitals() -> None:
    one = group(processes=1)
    assert "ONE process" in caption(one.iloc[1])
    assert "ONE process" not in caption(group().iloc[0])


def test_what_the_bound_of_a_ratio_divides_by_is_said() -> None:
    row, missed = group().iloc[1], group(reached=0, t_ratio=math.inf, t_ratio_low=20.0)
    for text in (caption(row), legend(row, missed)):
        assert (
            "T ratio > x: the seconds spent without reaching it, over the upper end of backprop's T" in text
        )
    assert "T ratio >" not in legend(group(runs=None).iloc[1], missed)
    held = "seconds until the target is reached and held, over 3 seeds"
    assert f"{held}; 0 of 3: none of them got there\n" in legend(row, missed)
    assert legend(row, group()).endswith(held)
    # Where backprop missed the target too, there is nothing to divide by.
    assert legend(row, group(reached=0, **NO_RATIO)).endswith("none of them got there")


def rendered(frame: pd.DataFrame, width: int, curves: dict[str, str] | None = None) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for table in group_tables(frame, console, curves):
        console.print(table)
    return console.export_text()


@pytest.mark.parametrize(("width", "tables"), [(80, 2), (160, 1)])
def test_the_table_fits_the_terminal_whole(width: int, tables: int) -> None:
    frame = group(ratio=1.834, ratio_low=1.781, ratio_high=1.889)
    console = Console(width=width)
    assert len(group_tables(frame, console)) == tables
    text = rendered(frame, width)
    for cell in ("1.834", "[1.781, 1.889]", "3 MiB", "0.20", "forward"):
        assert cell in text, f"{cell} is cut off at {width} columns:\n{text}"


@pytest.mark.parametrize(("width", "parts"), [(200, [3]), (100, [2, 1]), (70, [1, 1, 1])])
def test_parts_of_a_table_stand_together_where_they_fit(width: int, parts: list[int]) -> None:
    frame = group(method=BEST_FORWARD, cosine=0.1, second_moment=100.0, n_predicted=90.0)
    tables = group_tables(frame, Console(width=width), detail=False)
    first = [["peak\nmemory", "validation\nloss", "\ncosine"].index(_first_of(table)) for table in tables]
    assert first == [sum(parts[:place]) for place in range(len(parts))]


def _first_of(table: Table) -> str:
    known = ("peak\nmemory", "validation\nloss", "\ncosine")
    return next(str(column.header) for column in table.columns if column.header in known)


def test_without_details_there_are_fewer_columns_and_times_stand_in_a_table_of_their_own() -> None:
    frame = group(method=BEST_FORWARD, ratio_within_low=0.9, ratio_within_high=1.1)
    console = Console(width=100, record=True, file=io.StringIO())
    (table,) = group_tables(frame, console, {"backprop": "█▁", BEST_FORWARD: "█▄"}, detail=False)
    console.print(table)
    text = console.export_text()
    for cell in ("the best known", "loss over", "█▄", "3 MiB", "  structure=activity"):
        assert cell in text, text
    for left_out in ("alone", "lr", "T to"):
        assert left_out not in text, text


def test_two_targets_are_told_in_the_sentence_and_of_more_the_headline() -> None:
    frame = group(t_ratio=3.0, t_ratio_low=2.0, t_ratio_high=4.0)
    aims = [
        {**dict(row), "target_loss": loss, "t_ratio": loss * 10}
        for loss in (0.25, 0.75)
        for _, row in frame[["group", "method", "target_loss", "t_ratio"]].iterrows()
    ]
    (both,) = findings(frame, NO_AA, pd.DataFrame(aims))
    assert "to validation loss 0.25 it takes" in both
    assert "to validation loss 0.75 it takes" in both
    (one,) = findings(frame, NO_AA, pd.DataFrame([*aims, {**aims[-1], "target_loss": 0.1}]))
    assert one.count("validation loss") == 1
    assert "to validation loss 0.5 it takes 3.0 times" in one


@pytest.mark.parametrize(("count", "line"), [(1, ""), (2, ""), (3, "2 more are in targets.csv")])
def test_targets_that_are_left_out_are_said_to_be_elsewhere(tmp_path, capsys, count: int, line: str) -> None:
    run = made_up.run(tmp_path, [made_up.group(8)])
    rows = run.read("targets")
    rows = rows[rows["target_loss"] == rows["target_loss"].iloc[0]]
    aims = [rows.assign(target_loss=rows["target_loss"] - place / 100) for place in range(count)]
    run.replace("targets", pd.concat(aims).to_dict("records"))
    show(run)
    said = " ".join(capsys.readouterr().out.split())
    assert (line in said) if line else ("more are in" not in said)
    show(run, detail=True)
    assert "more are in" not in capsys.readouterr().out


def test_a_sparkline_is_the_median_curve_between_the_lowest_loss_and_the_first() -> None:
    curves = pd.DataFrame(
        [
            {
                "method": method,
                "job": f"{method}{seed}",
                "iteration": i,
                "train_seconds": i,
                "validation_loss": loss,
            }
            for method, losses in (("a", [2.0, 1.0, 0.0]), ("b", [2.0, 9.0, math.nan]))
            for seed in range(3)
            for i, loss in enumerate(losses)
        ]
    )
    lines = sparklines(curves)
    assert (lines["a"][0], lines["a"][-1], set(lines["b"])) == ("█", "▁", {"█"})
    assert list(lines["a"]) == sorted(lines["a"], reverse=True)
    assert sparklines(curves[curves["iteration"] == 0]) == {}


def test_what_was_not_measured_is_a_dash_and_not_a_number() -> None:
    nothing = dict.fromkeys(("t", "t_low", "t_high", "t_ratio", "n_ratio", "validation_loss"), None)
    text = rendered(group(**nothing, status="1 diverged"), 160)
    assert "–" in text
    assert "1 diverged" in text
    assert "nan" not in text


def test_a_method_without_a_curve_has_a_dash_beside_those_that_have_one() -> None:
    text = rendered(group(), 160, {"backprop": "█▄▁"})
    assert "█▄▁" in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("cells", "shown", "between"),
    [
        ((1.8342, 1.7811, 1.8893), "1.834", "[1.781, 1.889]"),
        ((37.2, 25.1, 55.3), "37", "[25, 55]"),
        ((3.1, 0.44, 22.0), "3.1", "[0.4, 22.0]"),
        ((2.6, 0.0183, 336.7), "2.6", "[0.02, 340]"),
        ((4.5, 0.001, 65557.6), "4.5", "[0.001, 66000]"),
        ((100.0, 0.3, 105.2), "100.0", "[0.3, 105.2]"),
        ((1.0, 0.902, 1.104), "1.000", "[0.902, 1.104]"),
        ((0.02, 0.0, 0.054), "0.020", "[0.000, 0.054]"),
        ((344679.0, 194634.0, 610396.0), "340000", "[190000, 610000]"),
        ((772288.0, 12.3, 5e7), "770000", "[12, 50000000]"),
        ((392888.0, math.nan, math.nan), "393000", ""),
        ((1.0, 1.0, 1.0), "1.00", ""),
        ((1 - 1e-16, 1.0, 1.0), "1.00", ""),
        ((99.98, math.nan, math.nan), "100", ""),
        ((0.5, math.nan, math.nan), "0.500", ""),
        ((math.nan, math.nan, math.nan), "–", ""),
        ((math.inf, None, None), "∞", ""),
        ((math.inf, 21.53, math.inf), "> 21.5", ""),
    ],
)
def test_digits_follow_the_interval(cells: tuple[float, ...], shown: str, between: str) -> None:
    assert (number(*cells), interval(*cells)) == (shown, between)


def test_units_fit_the_size() -> None:
    assert [seconds(s) for s in (2.5, 0.0123, 4.2e-5)] == ["2.5 s", "12.3 ms", "42 µs"]
    assert [size(b) for b in (512, 2048, 3 * 2**20, 1.5 * 2**30)] == ["512 B", "2 KiB", "3 MiB", "1.5 GiB"]


def predicted(measured: float, low: float, high: float, **changes: object) -> str:
    facts = {"n_ratio": measured, "n_ratio_low": 0.9 * measured, "n_ratio_high": 1.1 * measured}
    facts |= {"n_predicted": (low + high) / 2, "n_predicted_low": low, "n_predicted_high": high}
    protocol = "learning rates searched for each method alike; 6 s a run"
    return " ".join(findings(group(**(facts | {"protocol": protocol} | changes)), NO_AA))


def test_a_prediction_of_the_steps_is_said_to_hold_or_not() -> None:
    assert "by the length of its estimates" not in predicted(5.0, 4, 6, protocol="rate 0.1 for all")
    agreed = "should take 5.0 times the steps, and it takes 5.00: the two do not contradict each other."
    assert agreed in predicted(5.0, 4, 6)
    never = {"n_ratio": math.inf, "n_ratio_low": 1.11, "n_ratio_high": math.inf}
    assert "takes at least 1.11: the two do not contradict each other." in predicted(5.0, 4, 6, **never)
    assert "takes 5.00: that does not predict it, as where the loss is curved in few directions" in predicted(
        5.0, 400, 600
    )
    assert "does not predict it, as where its rate is not the best" in predicted(5.0, 1, 2)


def test_of_the_reference_nothing_is_predicted() -> None:
    one = dict.fromkeys(
        (f"n_{of}{end}" for of in ("ratio", "predicted") for end in ("", "_low", "_high")), 1.0
    )
    rows = group().assign(**one, protocol="learning rates searched for each method alike")
    said = " ".join(findings(rows, NO_AA))
    assert said.count("by the length of its estimates") == 1, "of forward alone"
    assert "estimates backprop" not in said


def test_the_steps_of_a_method_that_never_reached_a_target_are_bounded_as_its_time_is() -> None:
    never = {"reached": 0, "t": math.inf, "t_low": 60.0, "t_high": math.inf}
    never |= {
        f"{of}_ratio{end}": x
        for of in "tn"
        for end, x in (("", math.inf), ("_low", 20.0), ("_high", math.inf))
    }
    rows = group(**never).assign(t_median=math.inf)
    console = Console(file=io.StringIO(), width=160)
    (table,) = targets_table(rows, rows, console, detail=False)
    console.print(table)
    (line,) = [line for line in console.file.getvalue().splitlines() if "forward" in line]
    assert line.count("> 20.0") == 2
    assert "∞" not in line


@pytest.mark.parametrize("width", [80, 160])
def test_no_figure_of_the_targets_is_cut_off(width: int) -> None:
    found = {"t_ratio": 5.67, "t_ratio_low": 4.56, "t_ratio_high": 6.78, "n_ratio": 8.9, "n_ratio_low": 8.1}
    rows = group(method=BEST_FORWARD, t=12.34, t_low=11.11, t_high=13.33, **found).assign(t_median=12.34)
    console = Console(file=io.StringIO(), width=width)
    (table,) = targets_table(pd.concat([rows, rows.assign(target_loss=0.1)]), rows, console)
    console.print(table)
    text = console.file.getvalue()
    for cell in ("12.34 s", "[11.11, 13.33]", "5.7", "[4.6, 6.8]", "8.90"):
        assert cell in text, text
    assert max(len(line) for line in text.splitlines()) <= width


def test_what_a_step_is_worth_has_columns_of_its_own() -> None:
    worth = {"cosine": 0.0123, "second_moment": 412.0, "n_predicted": 380.0}
    worth |= {"n_predicted_low": 300.0, "n_predicted_high": 460.0}
    text = rendered(group(**worth), 200)
    assert "variance" in text
    for figure in ("0.0123", "412", "380", "[300, 460]"):
        assert figure in text
    assert "variance" not in rendered(group(), 200)


def test_one_note_more_is_told_as_one() -> None:
    assert [_rest(count) for count in (1, 2)] == ["There is one more", "There are 2 more"]


def test_names_of_a_budgets_table_are_not_broken_in_a_word() -> None:
    spec = "forward:tangents=16,structure=activity,combine=projection"
    row = {"variant": f"{spec},accumulate=4,store=seed", "peak_bytes": 9 << 20, "r": 3.5}
    variants = pd.DataFrame([{"method": spec, **row, "fits": True, "chosen": True}])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(*budget_table(variants, 64 << 20))
    text = console.export_text()
    assert all(text.count(word) >= 1 for word in ("combine=projection", "store=seed", "9 MiB", "3.50")), text
