"""One real run, tiny and with real workers: every table, and proof that its jobs were matched."""

from __future__ import annotations

import dataclasses

import pytest

import fgbench
from fgbench.plan import make_plan
from fgbench.running.run import run_plan
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import TABLES
from tests.builders import Recorder, config, run_folder

PROCESSES, SEEDS = 2, 2


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    plan = make_plan(config(processes=PROCESSES, seeds=SEEDS, learning_rate=None, max_train_seconds=0.1))
    facts = {"config": dataclasses.asdict(plan.config), "reference": plan.reference}
    folder = run_folder(tmp_path_factory.mktemp("results"), plan.groups, **facts)
    run_plan(plan, folder, {group.name: "c0" for group in plan.groups}, Recorder())
    return folder


def test_it_is_done_and_every_job_is_ok(run):
    assert run.facts()["status"] == "done"
    jobs = run.read("jobs")
    assert list(jobs["detail"].dropna()) == []
    assert set(jobs["status"]) == {"ok"}
    assert all(
        (run.path / f"{table}.csv").exists()
        for table in TABLES
        if table not in ("targets", "modes", "load", "variants")
    )


def test_weights_and_batches_are_equal_across_methods_processes_and_phases(run):
    jobs = run.read("jobs")
    for seed, own in jobs.groupby("seed"):
        assert own["weights_hash"].nunique() == 1, seed
        assert own["batches_hash"].nunique() == 1, seed
        assert set(own["method"]) == {"backprop", "forward"}
    assert jobs["weights_hash"].nunique() == jobs["batches_hash"].nunique() == 1 + SEEDS
    assert jobs[jobs["phase"] == "time"]["process"].nunique() >= PROCESSES


def test_all_methods_of_a_seed_start_from_the_same_loss(run):
    starts = run.read("curves").query("iteration == 0")
    assert set(starts.groupby("seed")["validation_loss"].nunique()) == {1}
    assert len(starts) == 2 * SEEDS


def test_processes_time_in_orders_of_their_own(run):
    samples = run.read("samples")
    measured = samples[~samples["warm_up"]]
    orders = {
        process: list(own.sort_values(["round", "position"])["role"] + own["method"])[:24]
        for process, own in measured.groupby("process")
    }
    assert orders[0] != orders[1]


def test_load_gives_the_summary(run):
    table = fgbench.load(run.path).set_index("method")
    assert table.loc["backprop", "ratio"] == 1.0
    assert table.loc["forward", "ratio"] > 0
    assert (table["peak_bytes"] > 0).all()
    assert (table["learning_rate"] > 0).all()
    assert table["validation_loss"].notna().all()
