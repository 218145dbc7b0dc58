"""The Python API: `compare` on a model of one's own, `load` of what a run left."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from typing import Any

import pandas as pd
import pytest
import torch

import fgbench
from fgbench import api
from fgbench.errors import ResultsError, UsageError
from fgbench.running import comparison
from fgbench.running.client import WorkerDiedError
from fgbench.running.comparison import ComparisonRequest
from fgbench.running.messages import Failed
from fgbench.running.phases.quality import TooSlow
from fgbench.store.schema import TABLES
from tests.builders import cross_entropy, only_here, run_folder, tiny_batch, tiny_group, tiny_mlp

HERE = "ignore:fgbench.compare. measured in the calling process"
pytestmark = [pytest.mark.usefixtures("short_blocks"), pytest.mark.filterwarnings(HERE)]


def compared(loss: Any = cross_entropy, model: Any = None, **options: object) -> pd.DataFrame:
    model = tiny_mlp(dtype=torch.float32) if model is None else model
    batch = tiny_batch(torch.float32)
    return fgbench.compare(model, loss, batch, max_measure_seconds=0.05, **options)


def here(**options: object) -> pd.DataFrame:
    return compared(loss=only_here(), **options)


def only_in(process: int) -> torch.nn.Module:
    if os.getpid() != process:
        raise RuntimeError("a class of the caller's script")
    return tiny_mlp(dtype=torch.float32)


class OfScript(torch.nn.Sequential):
    """No other process can import it."""

    __module__ = "__main__"


class OnlyHere(torch.nn.Sequential):
    """Pickled, but no other process can load it."""

    def __reduce__(self):
        return only_in, (os.getpid(),)

    def __deepcopy__(self, memo):
        return tiny_mlp(dtype=torch.float32)


def settings() -> tuple[object, ...]:
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    return torch.get_num_threads(), matmul.fp32_precision, conv.fp32_precision


class TestInFreshProcesses:
    @pytest.mark.filterwarnings("error::UserWarning")
    def test_what_a_script_defines_is_measured_as_a_run_does_and_the_caller_stays_as_it_is(self, monkeypatch):
        held = []
        monkeypatch.setattr(api, "SECONDS_A_PROCESS", 0.02)
        monkeypatch.setattr(api, "timing_lock", lambda device, note: nullcontext(held.append(device)))
        monkeypatch.setattr(comparison, "keep_freed_pages", lambda: pytest.fail("the caller's malloc"))
        requests = []
        really = api.work

        def work(task, request):
            requests.append(request)
            return really(task, request)

        monkeypatch.setattr(api, "work", work)
        before = settings()
        model = OfScript(*tiny_mlp(dtype=torch.float32))
        table = compared(lambda output, target: cross_entropy(output, target), model)
        assert settings() == before
        assert held == ["cpu"]
        assert [(r.number, r.what) for r in requests] == [
            *((0, "updates"), (1, "updates")),
            *((0, "time"), (1, "time")),
            (2, "worth"),
        ]
        assert set(table["status"]) == {"ok"}
        assert set(table["processes"]) == {2}
        assert "calling process" not in table.attrs["left_out"]
        updates = table.set_index(["role", "method"])["update"]
        assert updates["method", "backprop"] in ("fused", "foreach", "direct", "in-backward")
        assert pd.isna(updates["method", "forward"])

    def test_a_worker_keeps_freed_pages_and_pins_precision_and_threads(self, monkeypatch, tmp_path):
        told = []
        monkeypatch.setattr(comparison, "keep_freed_pages", lambda: told.append("pages"))
        monkeypatch.setattr(comparison, "float32_precision", told.append)
        monkeypatch.setattr(torch, "set_num_threads", lambda count: told.append(count))
        where = {"stored": str(tmp_path / "absent"), "path": (), "threads": 3}
        what = {
            "methods": ("backprop",),
            "over": "backprop",
            "seed": 0,
            "execution": "eager",
            "optimizer": "sgd",
        }
        request = ComparisonRequest(**where, **what, what="updates", updates={}, seconds=1.0, number=0)
        comparison.Compare().work(request, lambda event: told.append(type(event)))
        assert told == ["pages", "ieee", 3, comparison.Unloadable]

    def test_a_worker_that_dies_is_a_row_for_each_method(self, monkeypatch):
        def die(_task, _request):
            raise WorkerDiedError("oom", "killed")
            yield

        monkeypatch.setattr(api, "work", die)
        table = compared()
        assert set(table["method"]) == {"backprop", "forward"}
        assert set(table["status"]) == {"oom"}


class TestWorth:
    def test_what_a_step_costs_and_is_worth_stands_in_a_methods_own_row(self, monkeypatch):
        monkeypatch.setattr(api, "WORTH_SHARE", 100.0)
        table = here()
        own = table[table["role"] == "method"].set_index("method")
        assert own.loc["backprop", ["floor_ratio", "cosine", "n_predicted"]].tolist() == pytest.approx(
            [1, 1, 1]
        )
        assert own.loc["forward", "flops"] > 0
        assert own.loc["forward", "floor_share"] > 0
        assert 0 < own.loc["forward", "cosine"] < 0.5
        assert own.loc["forward", "n_predicted"] > 10
        assert table[table["role"] != "method"]["cosine"].isna().all()

    def test_what_cannot_be_judged_was_timed_all_the_same(self, monkeypatch):
        def failing(problem, specs, report):
            report(Failed("forward", "error", "not judged"))

        monkeypatch.setattr(comparison, "measure_cost", failing)
        monkeypatch.setattr(comparison, "measure_quality", lambda *given: given[-1](TooSlow(2.0)))
        table = here()
        assert set(table["status"]) == {"ok"}
        assert table["cosine"].isna().all()
        assert "would take 2.0 s: give max_measure_seconds=20" in table.attrs["left_out"]

    def test_a_wait_for_another_one_is_told_at_the_line_that_called(self, monkeypatch):
        def another(device, note):
            note(f"another fgbench is timing on {device}")
            raise KeyboardInterrupt
            yield

        monkeypatch.setattr(api, "timing_lock", contextmanager(another))
        with pytest.warns(UserWarning, match="another fgbench") as told, pytest.raises(KeyboardInterrupt):
            fgbench.compare(tiny_mlp(), cross_entropy, tiny_batch())
        assert told[0].filename == __file__


class TestInThisProcess:
    @pytest.mark.parametrize(
        ("given", "why"),
        [
            ({"loss": only_here()}, "cannot be pickled"),
            ({"model": OnlyHere()}, "another process cannot load it"),
        ],
        ids=["lock", "other process"],
    )
    def test_what_cannot_go_to_another_process_is_measured_here_and_says_what_that_leaves_out(
        self, given, why, monkeypatch
    ):
        monkeypatch.setattr(comparison, "keep_freed_pages", lambda: pytest.fail("the caller's malloc"))
        before = settings()
        with pytest.warns(UserWarning, match=why):
            table = compared(**given)
        assert settings() == before
        assert set(table["status"]) == {"ok"}
        assert why in table.attrs["left_out"]
        assert "freed pages are not kept" in table.attrs["left_out"]
        assert set(table["processes"]) == {1}
        assert table.set_index(["role", "method"])["update"]["method", "backprop"]


@pytest.mark.real_time
def test_compare_gives_the_base_every_method_and_the_a_a_repeat():
    table = here()
    assert list(zip(table["role"], table["method"], strict=True)) == [
        ("base", "base"),
        ("method", "backprop"),
        ("method", "forward"),
        ("aa", "backprop"),
    ]
    assert set(table["status"]) == {"ok"}
    assert set(table["detail"]) == {""}
    rows = table.set_index(["role", "method"])
    assert rows.loc[("method", "backprop"), "ratio"] == 1.0
    forward = rows.loc[("method", "forward")]
    assert forward["ratio_low"] <= forward["ratio"] <= forward["ratio_high"]
    assert forward["r"] == pytest.approx(forward["ratio"] * rows.loc[("method", "backprop"), "r"], rel=0.5), (
        "R over R_b is the ratio, but for the medians"
    )


def test_compare_leaves_the_model_as_it_is():
    model = tiny_mlp(dtype=torch.float32)
    before = [p.detach().clone() for p in model.parameters()]
    fgbench.compare(model, only_here(), tiny_batch(torch.float32), max_measure_seconds=0.02)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None and not p._backward_hooks for p in model.parameters())


def test_compare_takes_the_reference_that_is_asked_for():
    table = here(reference="forward:structure=gaussian").set_index(["role", "method"])
    assert table.loc[("method", "forward"), "ratio"] == 1.0
    assert ("aa", "forward") in table.index


def test_compare_without_backprop_is_over_the_first():
    table = here(methods=["forward:structure=rademacher", "forward"]).set_index(["role", "method"])
    assert table.loc[("method", "forward:structure=rademacher"), "ratio"] == 1.0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"methods": ["telepathy"]}, "no method 'telepathy'"),
        ({"methods": []}, "name at least one method"),
        ({"methods": "telepathy"}, "no method 'telepathy'"),
        ({"methods": ["forward", "forward"]}, "given twice"),
        ({"reference": "telepathy"}, "no method 'telepathy'"),
        (
            {"methods": ["forward"], "reference": "backprop"},
            "reference backprop: must be among the methods, forward",
        ),
    ],
    ids=str,
)
def test_compare_says_in_one_line_what_is_wrong(options, line):
    with pytest.raises(UsageError, match=line):
        compared(**options)


def test_compare_takes_one_method_by_its_name():
    table = here(methods="forward")
    assert set(table.loc[table["role"] == "method", "method"]) == {"forward"}


@pytest.mark.parametrize(
    "batch", [torch.zeros(2, 4), (torch.zeros(2, 4),), None, [[1.0], torch.zeros(1)]], ids=str
)
def test_compare_says_what_a_batch_is(batch):
    with pytest.raises(UsageError, match="batch: must be a pair of inputs and targets, or tensors by name"):
        fgbench.compare(tiny_mlp(), cross_entropy, batch, max_measure_seconds=0.05)


def test_compare_refuses_a_time_that_is_not_positive():
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="must be positive"):
            fgbench.compare(tiny_mlp(), cross_entropy, tiny_batch(), max_measure_seconds=seconds)


def test_compare_gives_a_row_for_a_method_that_fails(monkeypatch):
    from fgbench.methods.steps.pushforward import PushforwardStep

    monkeypatch.setattr(PushforwardStep, "expected", lambda self, gradient, *at: [0 * g for g in gradient])
    table = here()
    (row,) = table[table["method"] == "forward"].to_dict("records")
    assert (row["status"], row["role"]) == ("error", "method")
    assert "not timed" in row["detail"]


def test_compare_says_what_a_reader_should_know_of_a_methods_step():
    table = here(methods=["backprop", "local-losses"])
    said = table.set_index(["role", "method"])["detail"]
    assert "blocks" in said["method", "local-losses"]
    assert said["aa", "backprop"] == said["method", "backprop"] == ""


class TestLoad:
    def test_every_table_of_all_runs_with_the_runs_name(self, tmp_path):
        runs = [run_folder(tmp_path, [tiny_group()]) for _ in range(2)]
        for run in runs:
            run.append("memory", {"group": "g", "method": "m", "kind": "k", "bytes": 1})
        for table in TABLES:
            assert list(fgbench.load(tmp_path, table).columns) == ["run", *TABLES[table]]
        assert list(fgbench.load(str(tmp_path), "memory")["run"]) == [run.path.name for run in runs]

    def test_summary_is_a_row_for_each_method_of_each_group_of_each_run(self, tmp_path):
        for _ in range(2):
            run_folder(tmp_path, [tiny_group(), tiny_group(depth=2)])
        table = fgbench.load(tmp_path)
        assert len(table) == 2 * 2 * 2
        assert table["run"].nunique() == 2

    def test_no_such_table_and_no_such_run(self, tmp_path):
        run_folder(tmp_path)
        with pytest.raises(UsageError, match="no table 'colours': choose from summary, jobs"):
            fgbench.load(tmp_path, "colours")
        with pytest.raises(ResultsError, match="no such folder"):
            fgbench.load(tmp_path / "nowhere")


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'compair'"):
        _ = fgbench.compair
