"""A memory budget: the fastest variant that fits stands for a method, who does not fit is a row."""

from __future__ import annotations

import pytest
import torch

from fgbench import methods
from fgbench.cli.values import size
from fgbench.errors import UsageError
from fgbench.methods import PLAIN, Conditions
from fgbench.plan import Plan, make_plan
from fgbench.report import show
from fgbench.running import group_run
from fgbench.running.client import WorkerDiedError
from fgbench.running.matched import build_matched
from fgbench.running.phases import budget
from fgbench.running.phases.budget import Variant, measure_variants
from fgbench.running.phases.memory import PeakFound, measure_memory
from fgbench.running.run import run_plan
from fgbench.specs.options import canonical
from fgbench.store.run_folder import RunFolder, find_runs
from fgbench.store.schema import BASE
from tests.builders import Recorder, config, run_folder, tiny_group
from tests.scripted import Script


def run(tmp_path, monkeypatch, budget: int, script: Script | None = None, **changes):
    script = script or Script()
    monkeypatch.setattr(group_run, "work", script)
    plan = Plan(config(memory_budget=budget, **changes), (tiny_group(memory_budget=budget),))
    folder = run_folder(
        tmp_path, plan.groups, config={"methods": ["backprop", "forward"], "memory_budget": budget}
    )
    watcher = Recorder()
    run_plan(plan, folder, {plan.groups[0].name: "c0"}, watcher)
    return folder, script, watcher


def resumed(folder: RunFolder, monkeypatch) -> Script:
    script = Script()
    monkeypatch.setattr(group_run, "work", script)
    plan = Plan(config(memory_budget=1000), (tiny_group(memory_budget=1000),))
    run_plan(plan, folder, {plan.groups[0].name: "c0"}, Recorder())
    return script


def test_every_later_phase_has_the_fastest_variant_that_fits(tmp_path, monkeypatch):
    folder, script, _ = run(tmp_path, monkeypatch, 1000)
    wanted = {"backprop": "backprop", "forward": "forward:accumulate=2"}
    later = [r for r in script.requests if r["phase"] != "budget"]
    assert {"time", "cost", "memory", "tune", "train"} <= {r["phase"] for r in later}
    assert all(r["choices"]["variants"] == wanted for r in later)
    rows = folder.read("variants")
    assert dict(zip(rows["variant"], rows["chosen"], strict=True)) == {
        "backprop": True,
        "backprop:accumulate=2": False,
        "forward": False,
        "forward:accumulate=2": True,
    }


def test_who_does_not_fit_is_a_row_that_says_by_how_much_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    folder, script, watcher = run(tmp_path, monkeypatch, 600)
    jobs = folder.read("jobs")
    lost = jobs[jobs["method"] == "forward"]
    assert list(lost["status"]) == ["over budget"]
    detail = lost["detail"].iloc[0]
    assert "as forward:accumulate=2" in detail
    assert detail.startswith("needs at least 1000 B")
    assert detail.endswith(": 400 B above the budget of 600 B"), "in the unit of the budget, as in the table"
    assert any(detail in note for note in watcher.notes)
    assert all(r["methods"] == ["backprop"] for r in script.requests if r["phase"] == "time")
    show(folder)
    shown = " ".join(capsys.readouterr().out.split())
    assert "400 B over" in shown
    assert "Within 600 B: the shortest step is backprop (as backprop:accumulate=2)" in shown
    assert "no way to run forward fits" in shown


def test_after_a_death_nothing_runs_without_the_budget_and_a_resume_goes_on(tmp_path, monkeypatch):
    def dies(request):
        yield next(Script().budget(request))
        raise WorkerDiedError("oom", "killed")

    folder, script, _ = run(tmp_path, monkeypatch, 1000, Script(budget=dies))
    assert {r["phase"] for r in script.requests} == {"budget"}
    show(folder)
    again = resumed(folder, monkeypatch)
    assert again.of_phase("time")[0]["choices"]["variants"]["forward"] == "forward:accumulate=2"


def test_a_resume_takes_the_stored_choice(tmp_path, monkeypatch):
    def dies(request):
        yield from ()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, monkeypatch, 1000, Script(time=dies))
    (folder,) = find_runs(tmp_path)
    again = resumed(folder, monkeypatch)
    assert "budget" not in {r["phase"] for r in again.requests}
    assert again.of_phase("time")[0]["choices"]["variants"]["forward"] == "forward:accumulate=2"


def test_a_variant_that_cannot_run_beside_others_is_a_row_and_these_are_timed(monkeypatch):
    """As where the memory of a GPU is full."""
    whole = budget.method_step

    def full(problem, spec, process):
        if problem.conditions_of(spec).variant == "spsa:accumulate=2":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(problem, spec, process)

    monkeypatch.setattr(budget, "method_step", full)
    found: list[Variant] = []
    measure_variants(build_matched(tiny_group(), "nowhere", 0), ("spsa",), 0.2, found.append)
    failed = [v for v in found if v.detail]
    assert [(v.variant, v.peak_bytes) for v in failed] == [("spsa:accumulate=2", None)]
    assert "out of memory" in failed[0].detail
    assert "spsa" in [v.variant for v in found if v.seconds]


def test_every_variant_is_measured_and_the_chosen_one_has_that_peak_in_the_memory_phase():
    group = tiny_group(arch="transformer", dataset="pydoc:context=16", width=16)
    matched, found = build_matched(group, "nowhere", 0), []
    specs = ("backprop:checkpoint=true", "spsa")
    measure_variants(matched, specs, 0.2, found.append)
    rows = {v.variant: v for v in found if isinstance(v, Variant)}
    assert not [v.detail for v in rows.values() if v.detail]
    assert all(v.r > 0 and v.seconds > 0 and v.peak_bytes > v.beyond_bytes > 0 for v in rows.values())
    assert {v for v in rows if v.startswith("spsa")} == {f"spsa:accumulate={n}" for n in (2, 4, 8)} | {"spsa"}
    assert rows["spsa:accumulate=8"].beyond_bytes < rows["spsa"].beyond_bytes / 2
    taken = build_matched(group, "nowhere", 0)
    taken = taken.__class__(
        **{**vars(taken), "choices": taken.choices.with_variant("spsa", "spsa:accumulate=8")}
    )
    peaks = []
    measure_memory(taken, ("spsa",), peaks.append)
    peaks = [event for event in peaks if isinstance(event, PeakFound)]
    (peak,) = [p.bytes for p in peaks if (p.method, p.kind) == ("spsa", "peak_allocated")]
    assert peak == rows["spsa:accumulate=8"].peak_bytes
    assert BASE in {p.method for p in peaks}


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ("backprop", 2 * 3 + 3 * 3),
        ("backprop:update=in-backward", 3),
        ("backprop:checkpoint=true", 5),
        ("backprop:accumulate=4", 6),
        ("spsa", 4),
        ("forward:structure=rank-one", 4),
        ("forward", 8),
        ("forward:tangents=4", 24),
        ("forward:structure=activity", 1),
        ("dfa", 1),
    ],
)
def test_a_variant_is_the_same_method_with_what_was_left_open(spec, count):
    name = spec.split(":")[0]
    own = {canonical(name, v) for v in methods.find(spec).variants(PLAIN, 8)}
    assert len(own) == count, sorted(own)
    assert all(methods.find(variant).unbiased == methods.find(spec).unbiased for variant in own)
    given = set(filter(None, spec.partition(":")[2].split(",")))
    assert all(given <= set(variant.partition(":")[2].split(",")) for variant in own)


def test_a_chosen_variant_is_what_is_prepared():
    conditions = Conditions(variant="backprop:accumulate=7")
    from tests.builders import cross_entropy, tiny_batch, tiny_mlp

    step = methods.prepare(methods.find("backprop"), tiny_mlp(), cross_entropy, 0, conditions)
    with pytest.raises(UsageError, match="accumulate=7"):
        step(tiny_batch(), 0.1)
    assert methods.chosen("backprop", Conditions(variant="backprop:checkpoint=true")).queries == 4


def test_a_budget_is_one_execution_and_one_optimiser():
    for changes in ({"execution": "best"}, {"optimizer": "sgd|adam", "learning_rate": None}):
        with pytest.raises(UsageError, match="one --exec and one --optimizer"):
            make_plan(config(memory_budget=1, **changes))


@pytest.mark.parametrize(
    ("asked", "bytes_"), [("200MiB", 200 * 2**20), ("1.5GB", 1.5e9), ("64KiB", 65536), ("", None)]
)
def test_a_size_is_read(asked, bytes_):
    assert size("--memory-budget", asked) == bytes_


@pytest.mark.parametrize("asked", ["200", "MiB", "-1MiB", "0B", "infMiB", "nanMiB", "much"])
def test_what_is_no_size_is_refused(asked):
    with pytest.raises(UsageError, match=r"must be a size, as in 200MiB"):
        size("--memory-budget", asked)
