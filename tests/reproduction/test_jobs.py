"""Experiments of matched jobs: runs by name, figures by group and method, nothing measured twice."""

from __future__ import annotations

import pytest
import torch

from fgbench.errors import UsageError
from fgbench.reproduction import jobs
from fgbench.store.run_folder import find_runs
from tests.builders import config
from tests.charts import made_up
from tests.charts.made_up import METHODS, group


def test_what_a_run_says_itself_goes_before_what_all_share():
    shared = {"archs": ["mlp"], "width": 8, "seeds": 2}
    found = jobs.configs({**shared, "runs": {"one": {}, "two": {"width": 16, "methods": ["backprop"]}}})
    assert [c.width for c in found.values()] == [8, 16]
    assert [c.seeds for c in found.values()] == [2, 2]
    assert found["two"].methods == ("backprop",)
    with pytest.raises(UsageError, match="a run has no option colour"):
        jobs.configs({"runs": {"one": {"colour": 1}}})


def test_a_figure_that_is_missing_takes_the_hours_of_a_method_that_the_scale_has(tmp_path):
    own = group(8)
    made_up.run(tmp_path / "deep", [own])
    shape = {"archs": ["mlp"], "depths": [8], "width": own.width, "batch": own.batch}
    asked = {"dataset": own.dataset, "methods": list(METHODS), "max_iterations": 10**6}
    settings = {**shape, **asked, "runs": {"deep": {}}}
    found = jobs.takes(f"deep/{own.name}/{METHODS[1]}/validation_loss", settings, tmp_path)
    assert found.startswith("about ")
    for run, method in (("deep", "spsa:layers=one"), ("wide", METHODS[1])):
        assert jobs.takes(f"{run}/{own.name}/{method}/validation_loss", settings, tmp_path) == ""


def test_rates_may_be_given_by_method_and_a_search_put_in_the_place_of_one():
    rates = {"backprop": 0.1, "forward:tangents=2": 1e-3}
    found = jobs.configs({"learning_rate": 0.5, "runs": {"a": {"learning_rates": rates}, "b": {}}})
    assert found["a"].methods == tuple(rates)
    assert found["a"].learning_rates == rates
    assert set(found["b"].learning_rates.values()) == {0.5}
    searched = jobs.configs({"learning_rate": 0.5, "runs": {"a": {"learning_rate": "search"}}})
    assert searched["a"].learning_rate is None


def test_the_figures_are_the_summary_s_by_run_group_and_method(tmp_path):
    made_up.run(tmp_path / "one", [group(8)])
    found = jobs.figures(tmp_path)
    ratio = found[f"one/{group(8).name}/{METHODS[1]}/ratio"]
    assert ratio.value == pytest.approx(made_up.ratio(METHODS[1], 8))
    assert ratio.low < ratio.value < ratio.high
    peak = found[f"one/{group(8).name}/{METHODS[0]}/peak_bytes"]
    assert (peak.value, peak.has_interval) == (made_up.peak_bytes(METHODS[0], 8), False)


def test_figures_of_the_parts_of_a_run_are_the_run_s(tmp_path):
    shared = {"archs": ["mlp"], "depths": [1], "width": 8, "dataset": "digits", "time": False, "threads": 1}
    shared |= {"max_iterations": 4, "evaluate_every": 2, "seeds": 2, "learning_rate": 0.1}
    settings = {**shared, "runs": {"a+one": {"methods": ["backprop"]}, "a+two": {"methods": ["forward"]}}}
    jobs.measure(settings, tmp_path, lambda text, share: None)
    stem, found = "a/mlp-d1-w8-b64", jobs.figures(tmp_path)
    assert {f"{stem}/backprop/validation_loss", f"{stem}/forward/validation_loss"} <= set(found)
    assert set(found) <= jobs.figure_names(settings)
    assert set(jobs.by_seed(tmp_path)[f"{stem}/forward/lowest_loss"]) == {1, 2}
    assert "its steps as timed here" in jobs.takes(f"{stem}/forward/validation_loss", settings, tmp_path)


def test_losses_are_told_by_seed_of_methods_that_never_diverged(tmp_path):
    made_up.run(tmp_path / "one", [group(8)])
    found, figures = jobs.by_seed(tmp_path), jobs.figures(tmp_path)
    stem = f"one/{group(8).name}"
    assert not any(key.startswith(f"{stem}/{made_up.DIVERGED[0]}/") for key in found)
    for name in ("validation_loss", "lowest_loss", "rise"):
        own = found[f"{stem}/{METHODS[0]}/{name}"]
        assert tuple(own) == made_up.SEEDS
        assert figures[f"{stem}/{METHODS[0]}/{name}"].value == pytest.approx(sum(own.values()) / len(own))
    last = made_up.loss(METHODS[2], 2, made_up.EVALUATIONS)
    assert found[f"{stem}/{METHODS[2]}/validation_loss"][2] == pytest.approx(last)


def test_a_run_is_measured_once_and_tells_how_far_it_is(tmp_path):
    settings = {
        "dataset": "synthetic:shape=1x6x6,classes=4,samples=64",
        "methods": ["backprop", "forward"],
        "processes": 1,
        "seeds": 1,
        "max_measure_seconds": 0.2,
        "train": False,
        "validation_size": 16,
        "batch": 16,
        "runs": {"tiny": {"depths": [1], "width": 4}},
    }
    told: list[float] = []
    jobs.measure(settings, tmp_path, lambda text, share: told.append(share))
    before = len(told)
    jobs.measure(settings, tmp_path, lambda text, share: told.append(share))
    (run,) = find_runs(tmp_path / "tiny")
    assert len(told) == before, "nothing was measured again"
    run.finish("interrupted")
    jobs.measure(settings, tmp_path, lambda text, share: None)
    assert [run.facts()["status"] for run in find_runs(tmp_path / "tiny")] == ["done"]
    jobs.measure({**settings, "methods": ["backprop"]}, tmp_path, lambda text, share: None)
    assert len(find_runs(tmp_path / "tiny")) == 2, "another question is another run"
    assert told == sorted(told)
    assert told[0] >= 0 and told[-1] <= 1
    assert "tiny/mlp-d1-w4-b16/backprop/r" in jobs.figures(tmp_path)


def test_weights_are_pretrained_once_with_backprop_on_other_data(tmp_path):
    asked = config(
        archs=("transformer",), dataset="pydoc:context=16,part=second", width=16, trained="lora", batch=4
    )
    how = {"dataset": "pydoc:context=16,part=first", "steps": 2}
    file = jobs._pretrained(how, asked, tmp_path, lambda text, share: None)
    before = file.stat().st_mtime_ns
    held = torch.load(file, weights_only=True)
    assert (held["dataset"], held["steps"]) == (how["dataset"], 2)
    assert not [name for name in held["weights"] if "lower" in name], "all of the model, without LoRA"
    assert jobs._pretrained(how, asked, tmp_path, lambda text, share: None) == file
    assert file.stat().st_mtime_ns == before
