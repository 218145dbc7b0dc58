"""The runner with scripted workers: every row stored, whatever a worker, a method or a user does."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from fgbench.plan import Plan
from fgbench.running import group_run
from fgbench.running.client import WorkerDiedError
from fgbench.running.duration import seconds_of
from fgbench.running.group_run import FIRST_SEED, SEARCH_SEED, GroupRun
from fgbench.running.phase import STARTUP_SECONDS
from fgbench.running.phases import phases
from fgbench.running.phases.train import store_targets
from fgbench.running.run import run_plan
from fgbench.store.run_folder import RunFolder, find_runs
from fgbench.training.loop import STRETCH
from tests.builders import Recorder, config, run_folder, tiny_group
from tests.scripted import Events, Script, event, point, round_of, tuned


@dataclasses.dataclass
class Done:
    folder: RunFolder
    script: Script
    watcher: Recorder
    raised: BaseException | None = None

    def rows(self, table: str) -> list[dict[str, Any]]:
        return self.folder.read(table).to_dict("records")

    def statuses(self, phase: str) -> dict[str, str]:
        return {job["method"]: job["status"] for job in self.rows("jobs") if job["phase"] == phase}


@pytest.fixture
def ran(tmp_path, monkeypatch) -> Callable[..., Done]:
    def run(script: Script | None = None, groups: int = 1, **changes: Any) -> Done:
        script = script or Script()
        monkeypatch.setattr(group_run, "work", script)
        asked = config(**changes)
        depths = range(1, groups + 1)
        plan = Plan(asked, tuple(tiny_group(depth=d, optimizer=asked.optimizer) for d in depths))
        folder, watcher = run_folder(tmp_path, plan.groups), Recorder()
        done = Done(folder, script, watcher)
        try:
            run_plan(plan, folder, {g.name: "c0" for g in plan.groups}, watcher)
        except BaseException as error:
            done.raised = error
        return done

    return run


def dying(status: str = "oom", detail: str = "killed", after: int = 0, phase: str = "time"):
    def die(request: dict[str, Any]) -> Events:
        for number, happened in enumerate(getattr(Script(), phase)(request)):
            if number == after:
                break
            yield happened
        raise WorkerDiedError(status, detail)

    return die


def raising(error: BaseException, after: int, phase: str):
    def stop(request: dict[str, Any]) -> Events:
        for number, happened in enumerate(getattr(Script(), phase)(request)):
            if number == after:
                raise error
            yield happened

    return stop


class TestAWholeRun:
    def test_ends_as_done_with_every_table(self, ran):
        done = ran(learning_rate=None)
        assert done.raised is None
        assert done.folder.facts()["status"] == "done"
        for table in (
            "jobs",
            "samples",
            "ratios",
            "cost",
            "memory",
            "search",
            "curves",
            "targets",
            "quality",
        ):
            assert done.rows(table), table

    def test_jobs_hold_what_proves_them_matched(self, ran):
        jobs = ran().rows("jobs")
        assert {(j["weights_hash"], j["batches_hash"], j["parameters"], j["contract"]) for j in jobs} == {
            ("w", "b", 9, "c0")
        }
        assert len({j["job"] for j in jobs}) == len(jobs)
        # The choice of an update, 1 process, cost, memory, tuning, 2 seeds and quality, of 2 methods each.
        assert len(jobs) == 2 * (1 + 1 + 1 + 1 + 1 + 2 + 1)

    def test_ratios_leave_the_warm_up_out_and_say_they_are_quick(self, ran):
        rows = {(r["role"], r["method"]): r for r in ran().rows("ratios")}
        assert set(rows) == {
            ("base", "base"),
            ("method", "backprop"),
            ("method", "forward"),
            ("aa", "backprop"),
        }
        forward = rows["method", "forward"]
        assert forward["ratio"] == pytest.approx(1.5)
        assert forward["r"] == pytest.approx(6.0)
        assert (forward["stopped"], forward["rounds"], forward["processes"]) == ("quick", 6, 1)

    def test_samples_keep_the_warm_up_marked(self, ran):
        rows = ran().rows("samples")
        assert sum(r["warm_up"] for r in rows) == 4
        assert len(rows) == 7 * 4

    def test_a_method_s_slowed_repeat_is_asked_for_and_stored_under_its_role(self, ran):
        def timed(request):
            yield event("Rounds", rounds=6)
            for number in range(6):
                yield round_of(request, number, arms=["base", *request["methods"], "slowed forward", "aa"])

        done = ran(Script(time=timed), slowed=0.1, train=False)
        assert [r["slowed"] for r in done.script.requests if r["phase"] == "time"] == [0.1]
        samples = done.folder.read("samples")
        slowed = samples[samples["role"] == "slowed"]
        assert (set(slowed["method"]), len(slowed)) == ({"forward"}, 6)
        roles = done.folder.read("ratios").query("method == 'forward'")["role"]
        assert sorted(roles) == ["method", "slowed"]

    def test_the_learning_rate_is_searched_on_a_seed_that_is_not_measured(self, ran):
        done = ran(learning_rate=None, seeds=3)
        assert {r["seed"] for r in done.script.of_phase("tune")} == {SEARCH_SEED}
        assert [r["seed"] for r in done.script.of_phase("train")] == [
            FIRST_SEED,
            FIRST_SEED + 1,
            FIRST_SEED + 2,
        ]
        assert SEARCH_SEED not in range(FIRST_SEED, FIRST_SEED + 3)

    def test_the_chosen_trial_is_marked_and_used(self, ran):
        done = ran(learning_rate=None)
        chosen = [(r["method"], r["learning_rate"], r["full"]) for r in done.rows("search") if r["chosen"]]
        assert chosen == [("backprop", 0.0316, True), ("forward", 0.0316, True)]
        whole = done.folder.read("search").query("full").set_index(["method", "learning_rate"])
        assert list(whole["chosen_by"].dropna()) == ["time to loss 1"] * 2
        assert whole.loc[("forward", 0.0316), ["targets_reached", "target_seconds"]].tolist() == [1, 0.5]
        assert whole.loc[("forward", 0.1), "targets_reached"] == 0
        assert whole["target_seconds"].isna().sum() == 2
        assert done.script.of_phase("train")[0]["learning_rates"] == {"backprop": 0.0316, "forward": 0.0316}

    def test_every_method_gets_the_grid_and_the_rate_that_were_found_or_given(self, ran):
        (request, _) = ran(learning_rate=0.25).script.of_phase("train")
        assert request["protocol"]["every"] == 10
        assert request["learning_rates"] == {"backprop": 0.25, "forward": 0.25}

    def test_each_method_may_be_given_a_rate_of_its_own(self, ran):
        done = ran(learning_rate=(0.25, 1e-3))
        assert done.script.of_phase("tune")[0]["goal"] is None, "given rates need no search"
        assert done.script.of_phase("train")[0]["learning_rates"] == {"backprop": 0.25, "forward": 1e-3}
        rates = {j["method"]: j["learning_rate"] for j in done.rows("jobs") if j["phase"] == "train"}
        assert rates == {"backprop": 0.25, "forward": 1e-3}

    def test_the_protocol_is_what_was_asked_for(self, ran):
        done = ran(lr_decay=1e-4, max_iterations=7, max_queries=9, evaluate_every=3, patience=2)
        tune, train = (
            done.script.of_phase("tune")[0]["protocol"],
            done.script.of_phase("train")[0]["protocol"],
        )
        budget = {"seconds": config().max_train_seconds, "iterations": 7, "queries": 9, "patience": 2}
        assert tune == {"budget": budget, "decay": 1e-4, "every": 3, "first": STRETCH}
        searching = ran(learning_rate=None, target_loss="0.5,auto", target_accuracy="0.9").script
        goal = {"losses": "0.5,auto", "accuracies": "0.9", "reference": "backprop", "chance": math.inf}
        assert searching.of_phase("tune")[0]["goal"] == goal
        assert done.script.of_phase("tune")[0]["goal"] is None, "a given rate needs no search"
        assert train == {"budget": budget, "decay": 1e-4, "every": 10, "first": 1}
        assert {j["queries"] for j in done.rows("jobs") if j["phase"] == "train"} == {2, 3}

    def test_time_only_and_train_only_leave_the_other_half_out(self, ran):
        assert {r["phase"] for r in ran(train=False).script.requests} == {"modes", "time", "cost", "memory"}
        assert {r["phase"] for r in ran(time=False).script.requests} == {"modes", "tune", "train", "quality"}

    def test_groups_run_one_after_the_other_and_keep_their_rows(self, ran):
        done = ran(groups=2)
        for table in ("ratios", "targets", "curves", "memory"):
            assert {r["group"] for r in done.rows(table)} == {tiny_group(depth=d).name for d in (1, 2)}, table

    def test_progress_is_a_share(self, ran):
        shares = ran(learning_rate=None, processes=3).watcher.shares
        assert shares
        assert all(0 <= share <= 1 for share in shares), shares

    def test_progress_of_training_goes_by_the_limit_that_is_reached_first(self, ran):
        # 30 steps of a hundredth of a second: all that may be taken, and little of the seconds.
        done = ran(max_iterations=30, max_train_seconds=100.0, time=False, seeds=1)
        trained = done.watcher.shares[: 4 * 2]
        assert trained == pytest.approx([0, 0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1])


class TestHowManyProcesses:
    def factors(self, *factors: float, took: float = 1.0) -> Script:
        """Processes whose steps take these times another's, and whose ten rounds take `took` of their time.

        Four of the rounds are warm-up.
        """

        def time(request: dict[str, Any]) -> Events:
            for number in range(10):
                if number == 4:
                    yield event("Rounds", rounds=6)
                factor = factors[request["process"] % len(factors)]
                happened = round_of(request, number, warm_up=number < 4, factor=factor)
                blocks = happened["samples"]
                share = request["seconds"] * took / 10 / sum(b["seconds"] * (b["steps"] + 1) for b in blocks)
                for block in blocks:
                    block["seconds"] *= share
                yield happened

        return Script(time=time)

    def test_as_many_as_asked_for_where_they_agree(self, ran):
        done = ran(self.factors(1.0, 1.001, 0.999), processes=3)
        assert len(done.script.of_phase("time")) == 3
        assert {r["stopped"] for r in done.rows("ratios")} == {"precision"}

    def test_more_where_they_disagree_up_to_what_the_time_allows(self, ran):
        done = ran(self.factors(1.0, 1.2, 0.8), processes=3)
        found = len(done.script.of_phase("time"))
        assert found == 6, "half of the time for the first 3 leaves 3 more"
        assert {r["stopped"] for r in done.rows("ratios")} == {"time"}
        total = sum(r["seconds"] for r in done.script.of_phase("time"))
        assert total == pytest.approx(config().max_measure_seconds)

    @pytest.mark.parametrize(("took", "processes"), [(1.1, 5), (1.5, 4), (2.0, 3), (9.0, 3)])
    def test_no_more_than_the_time_allows_where_the_fewest_rounds_take_longer(self, ran, took, processes):
        done = ran(self.factors(1.0, 1.2, 0.8, took=took), processes=3)
        assert len(done.script.of_phase("time")) == processes
        assert {r["stopped"] for r in done.rows("ratios")} == {"time"}

    def test_a_resume_of_a_run_that_ended_finds_no_time_for_more(self, ran):
        done = ran(script := self.factors(1.0, 1.2, 0.8, took=2.0), processes=3)
        script.requests = []
        plan = Plan(config(processes=3), (tiny_group(depth=1),))
        run_plan(plan, done.folder, {g.name: "c0" for g in plan.groups}, Recorder())
        assert script.requests == []
        assert {(r["stopped"], r["processes"]) for r in done.rows("ratios")} == {("time", 3)}

    def test_more_where_they_disagree_until_the_interval_should_be_narrow_enough(self, ran):
        done = ran(self.factors(1.0, 1.009, 0.991), processes=3)
        assert len(done.script.of_phase("time")) == 4
        assert {r["stopped"] for r in done.rows("ratios")} == {"precision"}

    def test_a_method_alone_needs_no_more(self, ran):
        done = ran(self.factors(1.0, 3.0), processes=2, methods=("backprop",))
        assert len(done.script.of_phase("time")) == 2


class TestModes:
    def test_each_method_and_the_base_run_in_the_mode_that_was_found(self, ran):
        done = ran(execution="best", isolated=True)
        found = {"base": "compile", "backprop": "eager", "forward": "eager"}
        for phase in ("time", "alone", "memory", "tune", "train"):
            assert all(r["choices"]["executions"] == found for r in done.script.of_phase(phase)), phase
        assert {j["execution"] for j in done.rows("jobs") if j["phase"] == "time"} == {"eager"}
        assert len(done.rows("modes")) == 6 * len(done.script.of_phase("modes"))
        chosen = {r["method"]: r["execution"] for r in done.rows("modes") if r["chosen"]}
        assert chosen == found

    def test_a_mode_that_nothing_ran_in_is_said_once_and_what_one_method_lacks_of_that_method(self, ran):
        def modes(request: dict[str, Any]) -> Events:
            for method in ("base", *request["methods"]):
                for mode in ("eager", "compile", "cudagraph"):
                    lacks = mode == "compile" or (mode == "cudagraph" and method == "forward")
                    facts = {"seconds": None, "detail": f"no {mode}"} if lacks else {"seconds": 1.0}
                    yield event("Mode", method=method, execution=mode, optimizer="sgd", update="", **facts)

        notes = [n for n in ran(Script(modes=modes), execution="best").watcher.notes if "left out" in n]
        said = "did not run with --exec {mode}, which is left out: no {mode}"
        assert [note.partition(", ")[2] for note in notes] == [
            f"base: {said.format(mode='compile')}",
            f"forward: {said.format(mode='cudagraph')}",
        ]

    def test_without_best_the_mode_is_the_groups(self, ran):
        done = ran(execution="compile")
        assert not any(request["best"] for request in done.script.of_phase("modes"))
        assert {j["execution"] for j in done.rows("jobs")} == {tiny_group().execution}


class TestUpdates:
    OWN: ClassVar = {"backprop": {"sgd": "direct"}}

    def test_the_fastest_is_found_first_over_several_processes_and_used_by_every_phase(self, ran):
        done = ran(processes=4, isolated=True)
        phases = [request["phase"] for request in done.script.requests]
        assert phases[:4] == ["modes", "modes", "modes", "time"]
        assert [r["number"] for r in done.script.of_phase("modes")] == [0, 1, 2]
        for phase in ("time", "alone", "memory", "tune", "train"):
            assert all(r["choices"]["updates"] == self.OWN for r in done.script.of_phase(phase)), phase
        jobs = [j for j in done.rows("jobs") if j["phase"] != "modes"]
        assert {(j["method"], j["update"]) for j in jobs if j["method"] == "backprop"} == {
            ("backprop", "direct")
        }
        assert all(pd.isna(j["update"]) for j in jobs if j["method"] == "forward")
        rows = [(r["process"], r["update"], r["chosen"]) for r in done.rows("modes")]
        assert rows == [(p, u, u == "direct") for p in range(3) for u in ("fused", "direct")]
        assert any("its update is direct" in line for line in done.watcher.notes)

    def test_of_several_optimisers_the_note_says_for_which_one_an_update_is_the_fastest(self, ran):
        def modes(request: dict[str, Any]) -> Events:
            for optimizer, updates in (("sgd", ("direct", "fused")), ("adam", ("fused", "foreach"))):
                for seconds, update in enumerate(updates, 1):
                    own = {"execution": "eager", "optimizer": optimizer, "update": update}
                    yield event("Mode", method="backprop", **own, seconds=float(seconds))

        notes = ran(Script(modes=modes), train=False, optimizer="sgd|adam").watcher.notes
        for optimizer, update in (("sgd", "direct"), ("adam", "fused")):
            assert any(f"with {optimizer} its update is {update}, the fastest" in note for note in notes)

    def test_a_quick_run_takes_one_process(self, ran):
        assert len(ran(processes=1).script.of_phase("modes")) == 1

    def test_where_it_is_fixed_none_is_looked_for(self, ran):
        done = ran(methods=("backprop:update=foreach", "forward"))
        assert not done.script.of_phase("modes")


class TestOptimizers:
    def test_where_several_are_searched_each_method_is_timed_and_trained_with_its_own(self, ran):
        def tune(request: dict[str, Any]) -> Events:
            yield event("GridFound", every=10, first=1, queries=dict.fromkeys(request["methods"], 2))
            for method, optimizer in (("backprop", "adam"), ("forward", "sgd")):
                for name, loss in (("sgd", 1.0), ("adam", 2.0)):
                    facts = {"learning_rate": 0.1, "full": True, "train_seconds": 0.1, "iterations": 10}
                    own = {"method": method, "seed": 0, "optimizer": name, "status": "ok"}
                    yield event("Trial", **own, **facts, validation_loss=loss)
                yield tuned(method, optimizer, 0.1)

        monkey = Script(tune=tune)
        done = ran(monkey, learning_rate=None, optimizer="sgd|adam")
        phases = [request["phase"] for request in done.script.requests]
        assert phases.index("tune") < phases.index("time")
        own = {"backprop": "adam", "forward": "sgd"}
        assert all(
            r["choices"]["optimizers"] == own for r in done.script.requests if r["phase"] in ("time", "train")
        )
        jobs = [j for j in done.rows("jobs") if j["phase"] == "train"]
        assert {(j["method"], j["optimizer"]) for j in jobs} == set(own.items())
        chosen = [(r["method"], r["optimizer"]) for r in done.rows("search") if r["chosen"]]
        assert dict(chosen) == own
        assert len(chosen) == 2


class TestAlone:
    def test_the_base_and_every_method_has_a_process_of_its_own_in_each_round_of_processes(self, ran):
        done = ran(isolated=True, processes=2)
        asked = [(r["process"], r["alone"]) for r in done.script.of_phase("alone")]
        assert sorted(asked) == sorted((p, a) for p in (0, 1) for a in ("base", "backprop", "forward"))
        rows = {(r["role"], r["method"]): r for r in done.rows("ratios")}
        assert rows["method", "forward"]["r_alone"] == pytest.approx(6.0)
        assert rows["method", "forward"]["rounds"] == 12, "what is timed alone is in no other figure"

    def test_only_where_it_is_asked_for(self, ran):
        done = ran()
        assert not done.script.of_phase("alone")
        assert all(pd.isna(r["r_alone"]) for r in done.rows("ratios"))


class TestFailures:
    def failing(self, status: str = "error") -> Script:
        def time(request: dict[str, Any]) -> Events:
            if "forward" in request["methods"]:
                yield event("Failed", method="forward", status=status, detail="wrong by 2")
            yield from Script().time({**request, "methods": ["backprop"]})

        return Script(time=time)

    @pytest.mark.parametrize("status", ["error", "oom"])
    def test_a_method_that_fails_is_a_row_and_is_left_out_of_what_follows(self, ran, status):
        done = ran(self.failing(status), processes=2)
        assert done.raised is None
        first, second = done.script.of_phase("time")
        assert (first["methods"], second["methods"]) == (["backprop", "forward"], ["backprop"])
        assert done.script.of_phase("memory")[0]["methods"] == ["backprop"]
        assert list(done.script.of_phase("train")[0]["learning_rates"]) == ["backprop"]
        (job,) = [j for j in done.rows("jobs") if j["method"] == "forward" and j["phase"] != "modes"]
        assert (job["status"], job["detail"]) == (status, "wrong by 2")
        assert any("forward" in note and "wrong by 2" in note for note in done.watcher.notes)

    def test_a_method_whose_cost_cannot_be_counted_trains_all_the_same(self, ran):
        def cost(request: dict[str, Any]) -> Events:
            yield event("Failed", method="forward", status="error", detail="no count")

        done = ran(Script(cost=cost))
        assert done.script.of_phase("memory")[0]["methods"] == ["backprop", "forward"]
        assert list(done.script.of_phase("train")[0]["learning_rates"]) == ["backprop", "forward"]

    def test_a_method_that_diverged_is_said_and_goes_on(self, ran):
        done = ran(self.failing("diverged"))
        assert done.statuses("time") == {"backprop": "ok", "forward": "diverged"}
        assert done.script.of_phase("memory")[0]["methods"] == ["backprop", "forward"]

    @pytest.mark.parametrize("phase", ["time", "memory", "tune", "train"])
    def test_a_worker_that_dies_is_rows_and_the_plan_goes_on(self, ran, phase):
        done = ran(Script(**{phase: dying(phase=phase)}), groups=2, learning_rate=None)
        assert done.raised is None
        assert done.folder.facts()["status"] == "done"
        assert done.statuses(phase) == {"backprop": "oom", "forward": "oom"}
        others = {"time", "memory", "tune", "train"} - {phase} - ({"train"} if phase == "tune" else set())
        for other in others:
            assert set(done.statuses(other).values()) == {"ok"}, other
        assert any(f"the {phase} process ended early: killed" in note for note in done.watcher.notes)

    def test_samples_of_a_worker_that_dies_later_are_kept(self, ran):
        done = ran(Script(time=dying(after=5)), train=False)
        assert len(done.rows("samples")) == 4 * 4
        assert done.rows("ratios")

    def test_a_bad_input_that_only_the_worker_sees_is_rows(self, ran):
        def time(request: dict[str, Any]) -> Events:
            yield event("Refused", message="own.py: build raised")

        done = ran(Script(time=time), train=False)
        assert done.raised is None
        details = {j["detail"] for j in done.rows("jobs") if j["phase"] == "time"}
        assert details == {"its process ended early: own.py: build raised"}

    def test_a_training_run_that_diverges_is_said_and_its_points_are_kept(self, ran):
        def train(request: dict[str, Any]) -> Events:
            for number, loss in enumerate((3.0, 1.0, 1.0, 1.0)):
                yield point("backprop", 10 * number, loss)
            yield point("forward", 0, 3.0)
            yield point("forward", 10, float("nan"))
            yield event("Failed", method="forward", status="diverged", detail="no longer finite")

        done = ran(Script(train=train), time=False)
        assert done.statuses("train") == {"backprop": "ok", "forward": "diverged"}
        outcomes = {(r["method"], r["outcome"]) for r in done.rows("targets")}
        assert outcomes == {("backprop", "reached"), ("forward", "diverged")}

    def test_where_nothing_improves_there_is_no_target_and_it_is_said(self, ran):
        def train(request: dict[str, Any]) -> Events:
            for number in range(4):
                yield point("backprop", 10 * number, 3.0)

        done = ran(Script(train=train), time=False)
        assert not done.rows("targets")
        assert any("no target" in note and "--max-train-seconds" in note for note in done.watcher.notes)

    def test_where_the_reference_diverged_a_lower_rate_is_advised_not_more_time(self, ran):
        def train(request: dict[str, Any]) -> Events:
            for number in range(4):
                yield point("backprop", 10 * number, 3.0 if number < 3 else float("inf"))
                yield point("forward", 10 * number, 3.0)
            yield event("Failed", method="backprop", status="diverged", detail="no longer finite")

        done = ran(Script(train=train), time=False, target_loss="50%")
        (note,) = (note for note in done.watcher.notes if "no target" in note)
        assert "every run of backprop diverged; give a lower --lr" in note


class TestCtrlC:
    @pytest.mark.parametrize(
        ("phase", "after"), [("time", 0), ("time", 4), ("memory", 1), ("tune", 2), ("train", 5)]
    )
    def test_what_was_measured_is_readable_and_the_rest_marked(self, ran, phase, after):
        done = ran(
            Script(**{phase: raising(KeyboardInterrupt(), after, phase)}), groups=2, learning_rate=None
        )
        assert isinstance(done.raised, KeyboardInterrupt)
        (run,) = find_runs(done.folder.path)
        assert run.facts()["status"] == "interrupted"
        assert run.facts()["ended"]
        assert set(done.statuses(phase).values()) == {"interrupted"}
        assert all(j["detail"] == "by the user" for j in done.rows("jobs") if j["status"] == "interrupted")
        assert {j["group"] for j in done.rows("jobs")} == {tiny_group(depth=1).name}

    def test_in_timing_the_rounds_so_far_are_summed_up(self, ran):
        done = ran(Script(time=raising(KeyboardInterrupt(), 4, "time")))
        assert {(r["stopped"], r["rounds"]) for r in done.rows("ratios")} == {("interrupted", 2)}

    def test_in_training_the_curves_so_far_are_kept(self, ran):
        done = ran(Script(train=raising(KeyboardInterrupt(), 5, "train")))
        assert len(done.rows("curves")) == 5

    @pytest.mark.parametrize("how", [raising(KeyboardInterrupt(), 3, "train"), dying(after=3, phase="train")])
    def test_a_seed_that_was_cut_off_is_part_of_no_time_to_a_target(self, ran, how):
        """Its loss has not got below the first one yet: as a run of its own it would leave no target."""

        def train(request: dict[str, Any]) -> Events:
            yield from how(request) if request["seed"] == 2 else Script().train(request)

        done = ran(Script(train=train), target_loss="50%")
        assert {r["seed"] for r in done.rows("targets")} == {1}
        assert {r["target_loss"] for r in done.rows("targets")} == {2.0}

    def test_a_fault_of_our_own_closes_the_run_as_error_and_its_jobs_can_be_taken_up_again(self, ran):
        done = ran(Script(memory=raising(ZeroDivisionError("ours"), 0, "memory")))
        assert isinstance(done.raised, ZeroDivisionError)
        assert done.folder.facts()["status"] == "error"
        assert set(done.statuses("memory").values()) == {"interrupted"}


def test_folder_of_a_run_is_where_it_was_put(ran, tmp_path):
    assert Path(ran().folder.path).parent == tmp_path


def test_every_phase_holds_the_device(ran, monkeypatch):
    from contextlib import contextmanager

    from fgbench.running import run as runner

    held: list[str] = []

    @contextmanager
    def lock(device: str, note):
        held.append(device)
        yield
        held.pop()

    class Watching(Script):
        def tell(self, request: dict[str, Any]) -> Events:
            seen[request["phase"]] = list(held)
            yield from super().tell(request)

    seen: dict[str, list[str]] = {}
    monkeypatch.setattr(runner, "timing_lock", lock)
    ran(Watching(), learning_rate=None, execution="best", isolated=True)
    assert seen == {phase.name: ["cpu"] for phase in phases() if phase.name not in ("load", "budget")}


def test_a_run_that_an_error_ended_has_no_time_to_a_target(ran):
    def train(request: dict[str, Any]) -> Events:
        for number, loss in enumerate((3.0, 1.0, 1.0, 1.0)):
            yield point("backprop", 10 * number, loss)
        yield point("forward", 0, 3.0)
        yield event("Failed", method="forward", status="error", detail="in its first step")

    done = ran(Script(train=train), time=False)
    assert done.statuses("train")["forward"] == "error"
    assert {r["method"] for r in done.rows("targets")} == {"backprop"}


def test_a_seed_that_begins_anew_for_a_torn_state_says_so_and_its_jobs_end_well(ran):
    def train(request: dict[str, Any]) -> Events:
        yield event("Unreadable", detail="EOFError: it is empty")
        yield from Script().train(request)

    done = ran(Script(train=train), time=False, seeds=1)
    said = "seed 1 of 1: it begins anew, as its stored state cannot be read (EOFError: it is empty)"
    assert sum(said in note for note in done.watcher.notes) == 1
    assert done.statuses("train") == {"backprop": "ok", "forward": "ok"}


def test_targets_of_an_interrupted_try_do_not_outlive_a_resume_that_finds_none(tmp_path, monkeypatch):
    def train(request: dict[str, Any], *losses: float) -> Events:
        if not losses and request["seed"] != FIRST_SEED:
            raise KeyboardInterrupt
        for method in request["methods"]:
            for number, loss in enumerate(losses or (3.0, 1.0, 1.0, 1.0)):
                yield point(method, 10 * number, loss)

    # A loss that most of backprop's runs held: with one that does and two that diverge there is none.
    plan = Plan(config(seeds=3, time=False, target_loss="backprop-best"), (tiny_group(),))
    folder = run_folder(tmp_path, plan.groups)
    for losses in ((), (3.0, math.nan)):
        monkeypatch.setattr(group_run, "work", Script(train=lambda request, ls=losses: train(request, *ls)))
        with suppress(KeyboardInterrupt):
            run_plan(plan, folder, {plan.groups[0].name: "c0"}, Recorder())
        assert folder.read("targets").empty == bool(losses)
    folder.append("targets", {"group": plan.groups[0].name, "method": "forward", "seed": 1})
    folder.replace("jobs", [])
    store_targets(GroupRun(plan, plan.groups[0], "c0", folder, Recorder()))
    assert folder.read("targets").empty, "no job got to its end"


class TestCost:
    def test_base_and_methods_have_a_row_each(self, ran):
        rows = {r["method"]: r["floor_seconds"] for r in ran().rows("cost")}
        assert rows == {"base": 0.5, "backprop": 2.0, "forward": 3.0}

    def test_a_floor_above_what_was_timed_is_wrong_and_is_said_and_not_stored(self, ran):
        def cost(request: dict[str, Any]) -> Events:
            for happened in Script().cost(request):
                wrong = {"floor_seconds": 6.5} if happened["method"] == "forward" else {}
                yield {**happened, **wrong}

        done = ran(Script(cost=cost), train=False)
        assert {r["method"] for r in done.rows("cost")} == {"base", "backprop"}
        (job,) = [j for j in done.rows("jobs") if j["phase"] == "cost" and j["method"] == "forward"]
        assert "its floor of 6.5 s a step is wrong: a step was timed at 6 s" in job["detail"]
        assert any("forward: no floor" in note for note in done.watcher.notes)


class TestLoadOfAGpu:
    """A phase of its own, on a GPU alone."""

    def on(self, tmp_path, monkeypatch, device: str = "cuda:0", **changes: Any) -> Done:
        script = Script()
        monkeypatch.setattr(group_run, "work", script)
        asked = config(device=device, train=False, methods=("backprop:update=fused", "forward"), **changes)
        plan = Plan(asked, (tiny_group(device=device),))
        folder, watcher = run_folder(tmp_path, plan.groups), Recorder()
        run_plan(plan, folder, {g.name: "c0" for g in plan.groups}, watcher)
        return Done(folder, script, watcher)

    def test_every_method_has_its_window_and_energy_goes_into_the_ratios(self, tmp_path, monkeypatch):
        done = self.on(tmp_path, monkeypatch, max_measure_seconds=45.0)
        (request,) = done.script.of_phase("load")
        assert (request["methods"], request["seconds"]) == (["backprop:update=fused", "forward"], 5.0)
        assert {r["method"]: r["busy_seconds"] for r in done.rows("load")} == {
            "backprop:update=fused": 0.5,
            "forward": 0.5,
        }
        joules = {(r["role"], r["method"]): r["joules"] for r in done.rows("ratios")}
        assert (joules["method", "backprop:update=fused"], joules["method", "forward"]) == (12.0, 18.0)
        assert pd.isna(joules["aa", "backprop:update=fused"])
        assert set(done.statuses("load").values()) == {"ok"}
        assert not done.watcher.notes

    def test_where_windows_do_not_fit_into_half_of_the_budget_energy_is_not_read_and_that_is_said(
        self, tmp_path, monkeypatch
    ):
        done = self.on(tmp_path, monkeypatch, max_measure_seconds=10.0)
        (request,) = done.script.of_phase("load")
        assert request["seconds"] == 2.5
        (note,) = done.watcher.notes
        assert "energy is not measured" in note
        assert "--max-measure-seconds 20 " in note
        assert len(done.rows("load")) == 2
        assert {r["joules"] for r in done.rows("ratios") if not pd.isna(r["joules"])} == set()

    def test_the_estimate_counts_the_windows(self):
        asked = config(device="cuda:0", train=False, max_measure_seconds=45.0)
        on_cpu = dataclasses.replace(asked, device="cpu")
        assert seconds_of(asked, 2) - seconds_of(on_cpu, 2) == pytest.approx(2 * (2 * 5.0 + STARTUP_SECONDS))

    def test_a_cpu_has_none(self, tmp_path, monkeypatch):
        done = self.on(tmp_path, monkeypatch, device="cpu")
        assert not done.script.of_phase("load")
        assert done.rows("load") == []
