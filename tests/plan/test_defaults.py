"""What is compared where nothing is asked for: busy on the device, and the best that the stored runs know."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from fgbench.measurement.statistics import expected_running_time
from fgbench.plan import REFERENCE, Config
from fgbench.plan.config import BEST_FORWARD, PUBLISHED
from fgbench.plan.defaults import CPU, GPU, settled
from fgbench.plan.plan import groups_of
from fgbench.training.target import against_target, loss_asked
from tests.builders import TINY_DATA, config

RESULTS = Path(__file__).parents[2] / "results"


def test_a_gpu_gets_a_job_that_is_not_launch_bound_and_a_cpu_one_that_it_can_finish():
    (small,), (large,) = (groups_of(Config(depths=(8,)), device, 2) for device in ("cpu", "cuda:0"))
    assert (small.width, small.batch, small.dataset, small.execution) == (256, 64, "digits", "eager")
    assert (large.width, large.batch, large.execution) == (2048, 1024, "best")
    assert large.dataset.startswith("synthetic:")


def test_what_is_asked_for_is_not_replaced():
    asked = Config(batch=8, dataset=TINY_DATA, execution="compile", width=4, methods=(REFERENCE,))
    assert settled(asked, "cuda:0") == settled(asked, "cpu") == asked


def test_a_decaying_learning_rate_is_not_put_into_a_cuda_graph():
    assert settled(Config(lr_decay=1e-4), "cuda:0").execution == CPU.execution
    assert settled(Config(), "cuda:0").execution == GPU.execution


def test_variants_under_a_memory_budget_are_compared_in_one_mode():
    assert settled(Config(memory_budget=2**26), "cuda:0").execution == CPU.execution


def test_of_the_usual_methods_those_are_kept_that_run_in_the_mode():
    kept = settled(Config(execution="compile"), "cpu")
    assert kept.methods == (REFERENCE, PUBLISHED), "BEST_FORWARD cannot be compiled"
    for execution in ("eager", "best"):
        assert settled(Config(execution=execution), "cpu").methods == Config.methods
    assert settled(Config(execution="cudagraph"), "cuda:0").methods == Config.methods
    rates = Config(execution="compile", learning_rate=(0.1, 0.2, 0.3))
    assert settled(rates, "cpu").methods == Config.methods, "each rate belongs to a method"


def test_each_batch_is_a_group():
    groups = groups_of(config(depths=(1, 2), batch=(8, 16)), "cpu", 1)
    assert [(g.depth, g.batch) for g in groups] == [(1, 8), (1, 16), (2, 8), (2, 16)]


def soonest(curves: pd.DataFrame, asked: str) -> dict[str, float]:
    """Every method's expected seconds to a share of backprop's way over backprop's own."""
    losses = {
        job: (own["method"].iloc[0], list(own["validation_loss"])) for job, own in curves.groupby("job")
    }
    reference = [run for method, run in losses.values() if method == REFERENCE]
    target = loss_asked(asked, [], reference, math.log(10))
    times = {}
    for method, own in curves.groupby("method"):
        names = ("train_seconds", "iteration", "validation_loss")
        runs = [
            against_target(*(list(run[name]) for name in names), target, int(further))
            for _, run in own.groupby("job")
            for further in [run["past_budget"].sum() if "past_budget" in run else 0]
        ]
        times[method] = expected_running_time([r.seconds for r in runs], [r.reached for r in runs])
    return {method: time / times[REFERENCE] for method, time in times.items() if method != REFERENCE}


@pytest.mark.skipif(not RESULTS.is_dir(), reason="the results are in the repository alone")
@pytest.mark.parametrize("width", [256, 1024])
def test_the_best_forward_method_known_is_the_soonest_of_all_stored_runs(width: int):
    """On MLPs, with a learning rate searched for each method, at half of backprop's way."""
    found: dict[str, float] = {}
    for file in RESULTS.glob("reference-*/**/curves.csv"):
        facts = json.loads((file.parent / "run.json").read_text())
        (first, *_), searched = facts["groups"], facts["config"].get("learning_rate") is None
        if searched and (first["arch"], first["width"], first["dataset"]) == ("mlp", width, "mnist"):
            for method, ratio in soonest(pd.read_csv(file), "50%").items():
                found[method] = min(ratio, found.get(method, math.inf))
    assert len(found) > 5
    assert min(found, key=lambda method: found[method]) == BEST_FORWARD
    assert Config.methods == (REFERENCE, PUBLISHED, BEST_FORWARD)
