"""The Python API: `compare` on a model of one's own, `load` of what a run left."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import fgbench
from fgbench.errors import ResultsError, UsageError
from fgbench.store.schema import TABLES
from tests.builders import cross_entropy, run_folder, tiny_batch, tiny_group, tiny_mlp

pytestmark = pytest.mark.usefixtures("short_blocks")


def compared(**options: object) -> pd.DataFrame:
    model, batch = tiny_mlp(dtype=torch.float32), tiny_batch(torch.float32)
    return fgbench.compare(model, cross_entropy, batch, max_measure_seconds=0.05, **options)


@pytest.mark.real_time
def test_compare_gives_the_base_every_method_and_the_a_a_repeat():
    table = compared()
    assert set(zip(table["role"], table["method"], strict=True)) == {
        ("base", "base"),
        ("method", "backprop"),
        ("method", "forward"),
        ("aa", "backprop"),
    }
    assert set(table["status"]) == {"ok"}
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
    fgbench.compare(model, cross_entropy, tiny_batch(torch.float32), max_measure_seconds=0.02)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None and not p._backward_hooks for p in model.parameters())


def test_compare_takes_the_reference_that_is_asked_for():
    table = compared(reference="forward:structure=gaussian").set_index(["role", "method"])
    assert table.loc[("method", "forward"), "ratio"] == 1.0
    assert ("aa", "forward") in table.index


def test_compare_without_backprop_is_over_the_first():
    table = compared(methods=["forward:structure=rademacher", "forward"]).set_index(["role", "method"])
    assert table.loc[("method", "forward:structure=rademacher"), "ratio"] == 1.0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"methods": ["telepathy"]}, "no method 'telepathy'"),
        ({"methods": []}, "name at least one method"),
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


def test_compare_refuses_a_time_that_is_not_positive():
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="must be positive"):
            fgbench.compare(tiny_mlp(), cross_entropy, tiny_batch(), max_measure_seconds=seconds)


def test_compare_gives_a_row_for_a_method_that_fails(monkeypatch):
    from fgbench.methods._pushforward import PushforwardStep

    monkeypatch.setattr(PushforwardStep, "expected", lambda self, gradient, *at: [0 * g for g in gradient])
    table = compared()
    (row,) = table[table["method"] == "forward"].to_dict("records")
    assert (row["status"], row["role"]) == ("error", "method")
    assert "Not timed" in row["detail"]


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
        with pytest.raises(UsageError, match="no table 'colours': there are summary, jobs"):
            fgbench.load(tmp_path, "colours")
        with pytest.raises(ResultsError, match="no such folder"):
            fgbench.load(tmp_path / "nowhere")


def test_the_package_has_no_other_names():
    with pytest.raises(AttributeError, match="no attribute 'compair'"):
        _ = fgbench.compair
