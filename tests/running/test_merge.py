"""Merging: all rows of shards, once; processes and seeds of the same groups, or a line that says why not."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from fgbench.errors import UsageError
from fgbench.plan import Plan
from fgbench.running import group_run
from fgbench.running.merge import merge
from fgbench.running.run import run_plan
from fgbench.store.csv_table import records
from fgbench.store.jobs import ENDED_EARLY
from fgbench.store.run_folder import RunFolder, environment_of
from fgbench.store.schema import SCHEMA_VERSION
from tests.builders import Recorder, config, run_folder, tiny_group
from tests.scripted import Script, event

CHANCE = 2.0  # scripted curves go from 3 to 1


def shard(root, index: int, status: str = "done", **config: object) -> RunFolder:
    own = {
        "methods": ["backprop", "forward"],
        "batch": 8,
        "shard": f"{index}/2",
        "data_dir": f"here{index}",
        **config,
    }
    environment = {"device_name": f"processor {index}", "libraries": {"torch": f"2.0.{index}"}}
    group = tiny_group(depth=index)
    folder = run_folder(root / str(index), (group,), config=own, environment=environment)
    folder.append("memory", {"group": group.name, "method": "forward", "kind": "k", "bytes": 10 + index})
    folder.append("ratios", {"group": group.name, "method": "forward", "role": "method", "ratio": 1.5})
    if status != "running":
        folder.finish(status)
    return folder


def test_all_rows_and_groups_are_in_the_merged_run_and_the_shards_stay(tmp_path):
    shards = [shard(tmp_path, 1), shard(tmp_path, 2)]
    before = [(s.path / "memory.csv").read_text() for s in shards]
    merged = RunFolder.open(merge(shards, tmp_path / "out", "all", Recorder()).path)
    facts = merged.facts()
    assert facts["status"] == "done"
    assert facts["config"]["shard"] == ""
    assert [g["device_name"] for g in facts["groups"]] == ["processor 1", "processor 2"]
    assert list(merged.read("memory")["bytes"]) == [11, 12]
    assert merged.read("ratios")["r"].isna().all(), "what was missing is missing still"
    assert [(s.path / "memory.csv").read_text() for s in shards] == before
    assert [m["environment"]["device_name"] for m in facts["merged"]] == ["processor 1", "processor 2"]
    assert [environment_of(facts, g)["libraries"]["torch"] for g in facts["groups"]] == ["2.0.1", "2.0.2"]
    json.dumps(facts)


def test_a_shard_that_was_interrupted_makes_the_whole_so(tmp_path):
    merged = merge(
        [shard(tmp_path, 1), shard(tmp_path, 2, "interrupted")], tmp_path / "out", "all", Recorder()
    )
    assert merged.facts()["status"] == "interrupted"


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"index": 2, "batch": 9}, "differ in batch"),
        ({"index": 2, "status": "running"}, "--resume it first"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_written(tmp_path, other, line):
    first = shard(tmp_path / "a", 1)
    with pytest.raises(UsageError, match=line):
        merge([first, shard(tmp_path / "b", **other)], tmp_path / "out", "all", Recorder())
    assert not (tmp_path / "out").exists()


def test_runs_whose_tables_follow_other_rules_are_refused(tmp_path):
    """As those of version 6, where no evaluations follow the budget: a late target counts otherwise."""
    first, second = (shard(tmp_path / name, number) for number, name in ((1, "a"), (2, "b")))
    first._write({**first.facts(), "schema_version": SCHEMA_VERSION - 1})
    with pytest.raises(UsageError, match="differ in the version of their tables"):
        merge([first, second], tmp_path / "out", "all", Recorder())


def test_a_run_counts_once_by_whatever_path_and_in_whatever_it_was_merged_into(tmp_path):
    one, two = shard(tmp_path, 1), shard(tmp_path, 2)
    again = RunFolder(one.path / ".." / one.path.name)
    with pytest.raises(UsageError, match="named twice"):
        merge([one, two, again], tmp_path / "out", "all", Recorder())
    merged = merge([one, two], tmp_path / "out", "all", Recorder())
    for runs in ([merged, two], [one, merged]):
        with pytest.raises(UsageError, match=f"was merged into {merged.path} before"):
            merge(runs, tmp_path / "out", "all", Recorder())


def test_a_copy_of_a_run_does_not_count_again(tmp_path):
    one, two = shard(tmp_path, 1), shard(tmp_path, 2)
    copy = RunFolder(tmp_path / "copies" / "of" / one.path.name)
    shutil.copytree(one.path, copy.path)
    with pytest.raises(UsageError, match=f"{copy.path} is a copy of {one.path}: leave one of them out"):
        merge([one, two, copy], tmp_path / "out", "all", Recorder())
    renamed = RunFolder(copy.path.rename(tmp_path / "renamed"))
    merged = merge([one, two], tmp_path / "out", "all", Recorder())
    with pytest.raises(UsageError, match=f"was merged into {merged.path} before"):
        merge([merged, renamed], tmp_path / "out", "all", Recorder())


def test_one_is_not_enough(tmp_path):
    with pytest.raises(UsageError, match="two runs or more"):
        merge([shard(tmp_path, 1)], tmp_path / "out", "all", Recorder())


def with_another_group(run: RunFolder) -> RunFolder:
    """The run with a group more, which is in no other."""
    facts = run.facts()
    run._write({**facts, "groups": [*facts["groups"], {**facts["groups"][0], "name": "another"}]})
    return RunFolder.open(run.path)


class TestTheSameGroup:
    """Runs with scripted workers: three processes and two seeds each."""

    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        def make(
            name: str, contract: str = "c0", script: Script | None = None, **changes: object
        ) -> RunFolder:
            asked = config(**{"processes": 3, "seeds": 2, "methods": ("backprop", "forward"), **changes})
            plan = Plan(asked, (tiny_group(optimizer=asked.optimizer),), chance=CHANCE)
            folder = run_folder(tmp_path / name, plan.groups, config=dataclasses.asdict(asked))
            more = f'"contract": "{contract}", "chance_loss": {CHANCE}, "arch"'
            file = folder.path / "run.json"
            file.write_text(file.read_text().replace('"arch"', more))
            monkeypatch.setattr(group_run, "work", script or Script())
            run_plan(plan, folder, {g.name: contract for g in plan.groups}, Recorder())
            return RunFolder.open(folder.path)

        return make

    @pytest.fixture
    def merged(self, tmp_path):
        def join(*runs: RunFolder, keep: str = "all") -> tuple[RunFolder, list[str]]:
            watcher = Recorder()
            return merge(runs, tmp_path / "out", keep, watcher), watcher.notes

        return join

    def test_has_the_processes_of_all_runs_and_its_ratios_are_made_of_them(self, run, merged):
        folder, notes = merged(run("a", train=False), run("b", train=False))
        timed = folder.read("jobs").query("phase == 'time'")
        assert sorted(set(timed["process"])) == [0, 1, 2, 3, 4, 5]
        assert timed["job"].is_unique
        assert folder.read("samples").groupby("process").size().nunique() == 1
        ratios = folder.read("ratios")
        assert set(ratios["processes"]) == {6}
        assert folder.read("memory").duplicated(["method", "kind"]).sum() == 0
        assert any("memory" in note and "stay out" in note for note in notes)

    @pytest.mark.parametrize(
        ("reasons", "stopped"),
        [
            (("precision", "precision"), "precision"),
            (("quick", "quick"), "quick"),
            (("time", "precision"), "precision"),
            (("precision", "time"), "time"),
            (("precision", None), "precision"),  # the last one only trained
        ],
    )
    def test_has_the_reason_for_which_the_last_run_that_timed_stopped(self, run, merged, reasons, stopped):
        runs = []
        for name, reason in zip("ab", reasons, strict=True):
            runs.append(run(name, time=reason is not None, train=reason is None))
            rows = records(runs[-1].read("ratios"))
            runs[-1].replace("ratios", [{**row, "stopped": reason} for row in rows])
        folder, _ = merged(*runs)
        assert set(folder.read("ratios")["stopped"]) == {stopped}

    def test_has_the_last_run_s_processes_if_so_asked_and_those_that_it_lacks(self, run, merged):
        first, second = run("a", train=False, processes=4), run("b", train=False)
        folder, _ = merged(first, second, keep="last")
        samples = folder.read("samples")
        assert sorted(set(samples["process"])) == [0, 1, 2, 3]
        assert set(folder.read("ratios")["processes"]) == {4}

    def test_has_each_seed_once_and_says_so(self, run, merged):
        more = run("a", time=False, seeds=3)
        more.note(seeds_before=[2])
        folder, notes = merged(more, run("b", time=False))
        assert folder.seeds_before == [2], "that seeds were added is not forgotten"
        curves = folder.read("curves")
        assert set(curves["seed"]) == {1, 2, 3}
        assert not curves.duplicated(["method", "seed", "iteration"]).any()
        assert set(folder.read("targets")["seed"]) == {1, 2, 3}
        assert any("train.1, train.2" in note and "stay out" in note for note in notes)

    @pytest.mark.parametrize(
        "end",
        [
            {"status": "interrupted", "detail": "by the user"},
            {"status": "oom", "detail": f"{ENDED_EARLY}killed"},
        ],
    )
    def test_has_a_seed_whole_from_an_earlier_run_where_it_was_cut_short_in_the_last(self, run, merged, end):
        """There one method had diverged when the user, or the death of the worker, ended the other."""
        first, second = run("a", time=False), run("b", time=False)
        ends = {"forward": {"status": "diverged"}, "backprop": end}
        jobs = list(records(second.read("jobs")))
        for job in (j for j in jobs if j["phase"] == "train" and j["seed"] == 2):
            job.update(ends[job["method"]])
        second.replace("jobs", jobs)
        curves = second.read("curves").query("seed == 1 or iteration == 0")
        second.replace("curves", records(curves))
        folder, notes = merged(first, second)
        trained = folder.read("jobs").query("phase == 'train'")
        assert set(trained["seed"]) == {1, 2} and set(trained["status"]) == {"ok"}
        assert trained["job"].is_unique
        assert len(folder.read("curves")) == len(first.read("curves"))
        assert set(folder.read("targets")["seed"]) == {1, 2}
        assert any(str(second.path) in note and "train.2 stay out: they were not" in note for note in notes)

    def test_joins_a_run_that_timed_with_one_that_trained(self, run, merged):
        folder, _ = merged(run("a", train=False), run("b", time=False))
        assert len(folder.read("ratios")) > 0
        assert set(folder.read("targets")["seed"]) == {1, 2}
        assert folder.facts()["config"]["time"] and folder.facts()["config"]["train"]

    def test_has_the_targets_of_the_run_that_trained_which_start_from_chance(self, run, merged):
        trained = run("b", time=False, target_loss="50%")
        folder, _ = merged(run("a", train=False, target_loss="50%"), trained)
        assert set(folder.read("targets")["target_loss"]) == set(trained.read("targets")["target_loss"])

    def test_refuses_another_contract_and_says_what_is_another(self, run, tmp_path):
        first, second = run("a", contract="c1", train=False), run("b", train=False)
        file = first.path / "run.json"
        file.write_text(file.read_text().replace('"torch": "2.0.0"', '"torch": "1.9.0"'))
        watcher = Recorder()
        with pytest.raises(UsageError, match=f"nothing of {first.path} can be merged with the others"):
            merge([RunFolder.open(first.path), second], tmp_path / "out", "all", watcher)
        assert not (tmp_path / "out").exists()
        (note,) = watcher.notes
        assert str(first.path) in note
        assert note.endswith(f"another contract than in {second.path}: torch 1.9.0 and not 2.0.0.")

    def test_takes_the_groups_of_a_run_that_have_the_contract_that_is_kept(self, run, merged, tmp_path):
        first, second = run("a", contract="c1", train=False), run("b", train=False)
        folder, notes = merged(with_another_group(first), second)
        assert set(folder.read("jobs")["contract"]) == {"c0"}
        assert set(folder.read("ratios")["processes"]) == {3}
        assert [group["name"] for group in folder.facts()["groups"]] == [
            second.facts()["groups"][0]["name"],
            "another",
        ]
        assert any("another contract" in note for note in notes)

    @pytest.mark.parametrize("timed_last", [False, True])
    def test_refuses_to_time_one_update_and_train_another(self, run, tmp_path, timed_last):
        def modes(request):
            for update, seconds in (("fused", 1.0), ("direct", 2.0)):
                facts = {"execution": "eager", "optimizer": "sgd", "seconds": seconds}
                yield event("Mode", method="backprop", update=update, **facts)

        fused, direct = {"script": Script(modes=modes)}, {}
        timed = run("timed", train=False, **(direct if timed_last else fused))
        trained = run("trained", time=False, **(fused if timed_last else direct))
        first, second = (trained, timed) if timed_last else (timed, trained)
        watcher = Recorder()
        with pytest.raises(UsageError, match=f"nothing of {first.path} can be merged with the others"):
            merge([first, second], tmp_path / "out", "all", watcher)
        assert not (tmp_path / "out").exists(), "a run that adds nothing is no part of another"
        names = ("train.1", "tune") if timed_last else ("time.0", "memory")
        for name in names:
            (note,) = (note for note in watcher.notes if f".{name} of {first.path}" in note)
            assert "update fused, and direct" in note

    def test_refuses_processes_of_another_variant_under_a_memory_budget(self, run, tmp_path):
        def budget(request):
            for method in request["methods"]:
                for variant, r in ((method, 4.0), (f"{method}:accumulate=2", 3.0)):
                    facts = {"peak_bytes": 9, "beyond_bytes": 8, "seconds": r, "r": r}
                    yield event("Variant", method=method, variant=variant, **facts)

        asked = {"memory_budget": 2000, "train": False}
        first, second = run("a", **asked), run("b", **asked, script=Script(budget=budget))
        watcher = Recorder()
        with pytest.raises(UsageError, match=f"nothing of {first.path} can be merged"):
            merge([first, second], tmp_path / "out", "all", watcher)
        (note,) = (note for note in watcher.notes if ".time.0" in note)
        assert "backprop has variant backprop, and backprop:accumulate=2 where it is kept" in note
        merge([first, run("c", **asked)], tmp_path / "out", "all", Recorder())

    def test_takes_a_method_that_failed_in_the_last_run_before_its_optimiser_was_chosen(self, run, merged):
        class Fails(Script):
            def tune(self, request):
                yield from (e for e in super().tune(request) if e.get("method") != "forward")
                yield event("Failed", method="forward", status="oom", detail="no room")

        asked = {"optimizer": "sgd|adam", "learning_rate": None}
        folder, notes = merged(run("a", **asked, seeds=3), run("b", **asked, script=Fails()))
        timed = folder.read("jobs").query("phase == 'time' and method == 'forward'")
        assert len(timed) == 3 and set(timed["optimizer"]) == {"sgd"}
        assert not any("refused" in note for note in notes)

    def test_refuses_seeds_of_another_learning_rate_and_processes_of_another_update(self, run, merged):
        class Otherwise(Script):
            def modes(self, request):
                for update, seconds in (("fused", 1.0), ("direct", 2.0)):
                    facts = {"execution": "eager", "optimizer": "sgd", "seconds": seconds}
                    yield event("Mode", method="backprop", update=update, **facts)

            def tune(self, request):
                yield event("GridFound", every=20, first=1, queries=dict.fromkeys(request["methods"], 2))

        first, second = with_another_group(run("a", script=Otherwise(), seeds=3)), run("b")
        folder, notes = merged(first, second)
        jobs = folder.read("jobs")
        assert set(jobs.query("phase == 'time'")["process"]) == {0, 1, 2}
        assert set(folder.read("curves")["seed"]) == {1, 2}
        assert any("time.0" in note and "update fused, and direct" in note for note in notes)
        assert any("train.3" in note and "refused" in note for note in notes)
