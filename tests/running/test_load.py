"""The load phase: every method that works, alone, in its window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import pytest

from fgbench.measurement.clock import Reading
from fgbench.measurement.gauge import State
from fgbench.running.arms import Problem
from fgbench.running.messages import Began, Message
from fgbench.running.phases import load as module
from fgbench.running.phases.load import measure_load
from fgbench.store.schema import TABLES
from tests.builders import tiny_matched


class Gpu:
    """A clock that runs blocks on the CPU and says that each took a second, half of it busy."""

    def __init__(self, *_device_and_gauge: object) -> None:
        self.now = 0.0

    def time(self, block: Callable[[], object]) -> Reading:
        block()
        self.now += 1.0
        return Reading(1.0, 1.0, 1.0, State(1500.0, 300.0, 60.0, "", 300.0 * self.now))

    def busy_seconds(self, block: Callable[[], object], enqueue_seconds: float) -> float | None:
        block()
        return 0.5


def test_every_method_that_works_is_loaded_and_a_failing_one_is_only_that(monkeypatch):
    monkeypatch.setattr(module, "CudaClock", Gpu)
    matched, events = tiny_matched(), []

    def report(event: Message) -> None:
        if not isinstance(event, Began):
            events.append({"event": type(event).__name__, **asdict(event)})

    problem = Problem(matched.model, matched.loss, matched.batches(2), matched.seed)
    before = [p.detach().clone() for p in matched.model.parameters()]
    measure_load(problem, ("backprop", "no-such-method", "forward"), 5.0, report)
    assert [(e["event"], e["method"]) for e in events] == [
        ("Loaded", "backprop"),
        ("Failed", "no-such-method"),
        ("Loaded", "forward"),
    ]
    assert set(TABLES["load"]) - set(events[0]) == {"group"}
    assert (events[2]["busy_seconds"], events[2]["seconds"]) == (0.5, 1.0)
    assert events[2]["joules"] == pytest.approx(300.0)
    assert all((a == b).all() for a, b in zip(before, matched.model.parameters(), strict=True))
