"""A GPU's launch queue: work that a host queues, and a device that takes it up in order; time is scripted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from fgbench.measurement import clock

CAPACITY = 1000  # launches that wait; the next one waits for room
CYCLES_A_SECOND = 2e9
LAUNCH = 5e-6  # of the host
WAKE = 3e-6  # of the device, before it begins with what was queued while it was idle


class SimulatedQueue:
    """Stands for torch.cuda: one device and one stream; `calls` is what it was asked, in order."""

    def __init__(self) -> None:
        self.now = 0.0  # the host's clock
        self.done: list[float] = []  # when each launch will be, or was
        self.calls: list[str] = []
        self.current = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As torch.cuda, and as the clock's clock, until the end of a test."""
        monkeypatch.setattr(torch, "cuda", self)
        monkeypatch.setattr(clock, "perf_counter", lambda: self.now)

    def launch(self, seconds: float, host: float = LAUNCH) -> float:
        """Queue a kernel of so many seconds; gives the moment at which it will be done."""
        self.now += host
        if len(self.done) >= CAPACITY:
            self.now = max(self.now, self.done[-CAPACITY])
        free = self.done[-1] if self.done else 0.0
        start = free if free > self.now else self.now + WAKE
        self.done.append(start + seconds)
        return self.done[-1]

    def step(self, launches: int, seconds: float, host: float = LAUNCH) -> Callable[[], None]:
        """A step of so many kernels, each of so many seconds on the device and on the host."""

        def run() -> None:
            for _ in range(launches):
                self.launch(seconds, host)

        return run

    # ---- what the clock asks of torch.cuda

    def Event(self, enable_timing: bool) -> SimulatedEvent:  # noqa: N802 - torch's name
        assert enable_timing
        return SimulatedEvent(self)

    def synchronize(self, device: torch.device) -> None:
        self.calls.append(f"synchronise {device}")
        self.now = max(self.now, self.done[-1] if self.done else 0.0)

    def current_stream(self, device: torch.device) -> str:
        return f"{device}"

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        yield
        self.current = before

    def _sleep(self, cycles: int) -> None:
        self.calls.append(f"sleep on cuda:{self.current}")
        self.launch(cycles / CYCLES_A_SECOND)


class SimulatedEvent:
    """Stands for torch.cuda.Event."""

    def __init__(self, queue: SimulatedQueue) -> None:
        self.queue, self.at = queue, 0.0

    def record(self, stream: str = "the current device's stream") -> None:
        self.queue.calls.append(f"event on {stream}")
        self.at = self.queue.launch(0.0, host=1e-6)

    def query(self) -> bool:
        self.queue.calls.append("event done?")
        return self.queue.now >= self.at

    def elapsed_time(self, other: Any) -> float:
        return 1000 * (other.at - self.at)
