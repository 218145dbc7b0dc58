"""Tables of experiments on the results page."""

from __future__ import annotations

import pytest

from fgbench.errors import ResultsError
from fgbench.page.experiments import ANSWERS, EXPERIMENTS

MAIN_JOB, NOISE, GATE, ENGINE, TRANSFORMERS, OVERHEAD, WAYS, LAYERS, STEADYING, READINGS, PREDICTION = (
    EXPERIMENTS
)


def rows_of(experiment, folder, header, *lines):
    (folder / experiment.file).write_text("\n".join([header, *lines]) + "\n")
    ((place, rows),) = experiment.tables(folder)
    assert place == folder
    assert {len(row) for row in rows} == {len(experiment.heads)}
    return [tuple(row) for row in rows]


def test_a_default_job_has_its_time_its_precision_and_how_many_notes_it_printed(tmp_path):
    header = "job,seconds,processes,half_width,diverged,warnings"
    lines = "1,172.8,11,0.0199,0,one thing | another", "2,139.1,8,0.0178,0,"
    rows = rows_of(MAIN_JOB, tmp_path, header, *lines)
    assert rows == [(1, "173 s", 11, "±2.0%", 2), (2, "139 s", 8, "±1.8%", 0)]


def test_comparisons_of_a_kind_are_one_row_with_the_share_whose_interval_holds_the_truth(tmp_path):
    header = "set,kind,truth,ratio,low,high"
    lines = ("0,aa,1.0,1.0,0.99,1.01", "1,aa,1.0,1.02,1.01,1.03", "0,known,1.05,1.05,1.05,1.06")
    assert rows_of(NOISE, tmp_path, header, *lines) == [
        ("identical steps", "1", 2, "50.0%", "±1.00%"),
        ("steps with a known difference", "1.05", 1, "100.0%", "±0.48%"),
    ]


def test_answers_of_the_check_on_real_runs_are_counted_for_each_slowdown(tmp_path):
    runs = ("0,run,0,PASS", "1,run,0,INVALID", "0,run,0.1,REGRESSED", "1,run,0.1,REGRESSED")
    assert rows_of(GATE, tmp_path, "number,source,slowed,answer", "0,data,0.1,PASS", *runs) == [
        ("unchanged", 2, *(1 if name in ("PASS", "INVALID") else 0 for name in ANSWERS)),
        ("slower by 10%", 2, *(2 if name == "REGRESSED" else 0 for name in ANSWERS)),
    ]


def test_a_figure_stands_beside_its_target_where_it_has_one(tmp_path):
    rows = rows_of(
        ENGINE, tmp_path, "case,method,r,r_target,ratio,ratio_target,over", "mlp,forward,2.0,2.2,0.65,,direct"
    )
    assert rows == [("mlp", "`forward`", "2.00", "≤ 2.2", "0.650", "–", "direct")]


def test_a_transformers_ratio_stands_beside_its_target_and_its_floor(tmp_path):
    header = "model,method,ratio,ratio_low,ratio_high,ratio_target,floor_ratio,over"
    rows = rows_of(TRANSFORMERS, tmp_path, header, "gpt2,forward,1.02,1.01,1.03,1.05,0.99,direct")
    assert rows == [("gpt2", "`forward`", "1.020 [1.010, 1.030]", "≤ 1.05", "0.990", "direct")]


def test_a_small_models_step_says_what_it_is_held_against(tmp_path):
    header = "case,method,execution,over,which,ratio,ratio_low,ratio_high"
    line = 'logreg,forward,compile,the fastest backprop,"backprop, eager",0.8,0.7,0.9'
    (row,) = rows_of(OVERHEAD, tmp_path, header, line)
    assert row[2:] == ("compile", "the fastest backprop (backprop, eager)", "0.80 [0.70, 0.90]")


def test_a_way_that_does_not_work_says_why(tmp_path):
    header = "model,execution,way,ratio,ratio_low,ratio_high,ready_seconds,without_rule,reason"
    lines = "mlp,eager,own Python,1.0,1.0,1.0,1.25,function x,it asks", "loop,eager,torch.export,,,,,,Guard"
    works, fails = rows_of(WAYS, tmp_path, header, *lines)
    assert works[-2:] == ("1.2 s", "function x; it asks")
    assert fails[3:] == ("–", "–", "Guard")


def test_a_ratio_of_layer_sampled_tangents_has_its_interval(tmp_path):
    header = "case,method,ratio,ratio_low,ratio_high,second_moment,over"
    rows = rows_of(LAYERS, tmp_path, header, "mlp-d2,forward:layers=one,0.5,0.4,0.6,12345,direct")
    assert rows == [("mlp-d2", "`forward:layers=one`", "0.50 [0.40, 0.60]", "12300", "direct")]


def test_a_target_that_was_not_reached_with_any_rate_has_no_time(tmp_path):
    header = "method,means,largest_rate,rate_to_0.5,steps_to_0.5,seconds_to_0.5"
    lines = "backprop,none,0.5,0.25,72.0,0.41", "forward,adam,0.01,,inf,inf"
    rows = rows_of(STEADYING, tmp_path, header, *lines)
    assert rows[0] == ("`backprop`", "none", "0.500", "0.250", "72", "0.410 s")
    assert rows[1][3:] == ("–", "not reached", "–")


def test_a_reading_says_where_a_run_fell(tmp_path):
    header = "weights,pixels,means,method,iterations,outcome,lowest,steps_ratio"
    lines = '"He","in [0, 1]",none,backprop,60,ended,0.5,1.0', "He,plain,none,forward,20,diverged,1.5,inf"
    stays, falls = rows_of(READINGS, tmp_path, header, *lines)
    assert stays == ("He", "in [0, 1]", "none", "`backprop`", "60", "0.500", "1.00")
    assert falls[4:] == ("diverged at 20", "1.50", "∞")


def test_what_ratios_are_over_is_not_shown_among_the_predicted(tmp_path):
    header = "model,method,ratio_predicted,ratio_measured,error"
    rows = rows_of(PREDICTION, tmp_path, header, "mlp,backprop,1.0,1.0,0.0", "mlp,forward,1.5,2.0,-0.25")
    assert rows == [("mlp", "`forward`", "1.50", "2.00", "-25%")]


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.file)
def test_another_table_is_named(experiment, tmp_path):
    (tmp_path / experiment.file).write_text("a,b\n1,2\n")
    with pytest.raises(ResultsError, match=experiment.file):
        list(experiment.tables(tmp_path))
