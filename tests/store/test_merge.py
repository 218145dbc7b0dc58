"""Merging shards: all their rows, once, or a line that says why not."""

from __future__ import annotations

import json

import pytest

from fgbench.errors import UsageError
from fgbench.store.merge import merge
from fgbench.store.run_folder import RunFolder, environment_of
from tests.builders import run_folder, tiny_group


def shard(root, index: int, status: str = "done", **config: object) -> RunFolder:
    own = {"methods": ["backprop", "forward"], "shard": f"{index}/2", "data_dir": f"here{index}", **config}
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
    merged = RunFolder.open(merge(shards, tmp_path / "out").path)
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
    merged = merge([shard(tmp_path, 1), shard(tmp_path, 2, "interrupted")], tmp_path / "out")
    assert merged.facts()["status"] == "interrupted"


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"index": 2, "seeds": 9}, "differ in seeds"),
        ({"index": 2, "status": "running"}, "--resume it first"),
        ({"index": 1}, "merge it once"),
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_written(tmp_path, other, line):
    first = shard(tmp_path / "a", 1)
    with pytest.raises(UsageError, match=line):
        merge([first, shard(tmp_path / "b", **other)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_is_not_enough(tmp_path):
    with pytest.raises(UsageError, match="two runs or more"):
        merge([shard(tmp_path, 1)], tmp_path / "out")
