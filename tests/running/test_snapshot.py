"""A training that was cut off goes on to the curve that it would have had."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fgbench.running.messages import Began, Failed, Message
from fgbench.running.phases.train import Evaluated, train
from fgbench.running.snapshot import Snapshot, store_if_possible
from fgbench.running.trainees import Protocol
from fgbench.training.loop import Budget
from fgbench.training.target import FURTHER
from tests.builders import room_for, tiny_matched

SPECS = (
    "backprop",
    "forward",
    "forward:structure=activity",
    "forward:structure=activity,at=block",
    "forward:tangents=2,structure=activity,noise=batch,combine=projection",
    "forward:store=seed",
    "forward:structure=rank-one,layers=one,sampling=adaptive",
    "forward:structure=activity,layers=one,sampling=adaptive",
    "spsa",
    "dfa",
    "fdfa",
    "local-losses",
    "local-guess:guess=ntk,target=local",
)
KINDS = (Evaluated, Failed)
PROTOCOL = Protocol(Budget(600.0, iterations=30), decay="cosine:warmup=5", every=3, first=3)


class StoppedError(Exception):
    pass


def curve(
    path: Path | None, stop_after: int | None = None, rates: dict[str, float] | None = None, **changes: Any
) -> list[tuple[str, dict[str, Any]]]:
    """Reports of a training, in order and without its times; ends early after so many."""
    found: list[tuple[str, dict[str, Any]]] = []

    def report(event: Message) -> None:
        if isinstance(event, Began):
            return
        if len(found) == stop_after:
            raise StoppedError
        facts = asdict(event).items()
        found.append((type(event).__name__, {k: repr(v) for k, v in facts if not k.endswith("_seconds")}))

    rates = rates or dict.fromkeys(SPECS, 0.05)
    train(tiny_matched(1, **changes), rates, PROTOCOL, report, Snapshot(path, KINDS, seconds=0.0))
    return found


@cache
def uncut(optimizer: str = "sgd") -> list[tuple[str, dict[str, Any]]]:
    """The curve of a training that nothing cut off."""
    return curve(None, optimizer=optimizer)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "sgd:momentum=0.9,nesterov=true"])
@pytest.mark.parametrize("stop_after", [1, 48, 140])  # the last is past the budget
def test_it_goes_on_bit_for_bit(tmp_path, optimizer, stop_after):
    whole = uncut(optimizer)
    with pytest.raises(StoppedError):
        curve(tmp_path / "state.pt", stop_after, optimizer=optimizer)
    assert curve(tmp_path / "state.pt", optimizer=optimizer) == whole
    assert len(whole) == len(SPECS) * (11 + FURTHER)


def test_one_that_diverged_stays_so_and_the_others_go_on(tmp_path):
    rates = {"backprop": 1e38, "forward": 0.05}
    whole = curve(None, rates=rates)
    assert [event for event, _ in whole].count("Failed") == 1
    with pytest.raises(StoppedError):
        curve(tmp_path / "state.pt", 9, rates=rates)
    assert curve(tmp_path / "state.pt", rates=rates) == whole


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_an_empty_or_torn_state_begins_anew_and_says_so(tmp_path, share):
    path, rates = tmp_path / "state.pt", {"backprop": 0.05}
    whole = curve(path, rates=rates)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    (first, facts), *rest = curve(path, rates=rates)
    assert (first, list(facts)) == ("Unreadable", ["detail"])
    assert rest == whole
    assert curve(path, rates=rates) == whole, "the next state has taken its place"


def test_a_state_that_does_not_fit_into_memory_now_stays_for_another_try(tmp_path, monkeypatch):
    path, rates = tmp_path / "state.pt", {"backprop": 0.05}
    whole = curve(path, rates=rates)
    really, content = torch.load, path.read_bytes()

    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(torch.OutOfMemoryError):
        curve(path, rates=rates)
    assert path.read_bytes() == content
    monkeypatch.setattr(torch, "load", really)
    assert curve(path, rates=rates) == whole


def test_a_method_that_failed_since_then_is_left_out_of_what_goes_on(tmp_path):
    path, rates = tmp_path / "state.pt", {"backprop": 0.05, "spsa": 0.05}
    with pytest.raises(StoppedError):
        curve(path, 9, rates=rates)
    rest = curve(path, rates={"backprop": 0.05})
    assert {facts["method"] for _, facts in rest} == {repr("backprop")}
    assert rest == [event for event in curve(None, rates=rates) if event[1]["method"] == repr("backprop")]


def test_times_go_on_too(tmp_path):
    seconds: list[float] = []

    def report(event: Message) -> None:
        if not isinstance(event, Began):
            assert isinstance(event, Evaluated)
            seconds.append(event.train_seconds)

    path = tmp_path / "state.pt"
    train(tiny_matched(1), {"backprop": 0.05}, PROTOCOL, report, Snapshot(path, KINDS, seconds=0.0))
    before = list(seconds)
    seconds.clear()
    train(tiny_matched(1), {"backprop": 0.05}, PROTOCOL, report, Snapshot(path, KINDS))
    assert seconds == before, "all was done: it is reported again, as it was"


def test_a_disk_that_is_full_costs_the_checkpoint_alone(tmp_path):
    (tmp_path / "file").touch()
    assert curve(tmp_path / "file" / "state.pt") == uncut()


def test_a_disk_that_fills_up_costs_the_state_alone_and_nothing_torn_is_left(tmp_path):
    whole, path = uncut(), tmp_path / "snapshots" / "state.pt"
    with room_for(900):
        assert curve(path) == whole
    assert list(path.parent.iterdir()) == []
    store_if_possible({"a": 1}, path)
    with room_for(900):
        store_if_possible({"a": torch.ones(10_000)}, path)
    assert torch.load(path) == {"a": 1}, "the one before stays"
    assert list(path.parent.iterdir()) == [path]


def test_a_young_state_is_not_replaced(tmp_path):
    path = tmp_path / "state.pt"
    train(tiny_matched(1), {"backprop": 0.05}, PROTOCOL, lambda event: None, Snapshot(path, KINDS, 600.0))
    assert not path.exists()
