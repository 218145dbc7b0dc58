"""A GPU under load: its device time, clocks and energy, on a launch queue and gauges that are scripted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import pandas as pd
import pytest
import torch

from fgbench.measurement.clock import CudaClock, Reading
from fgbench.measurement.gauge import Blind, State
from fgbench.measurement.interleave import Arm
from fgbench.measurement.load import REPEATS, WINDOW_SECONDS, Load, queued_seconds, under_load
from fgbench.summary.table import DEVICE, HOST, UNKNOWN, _load_cells
from tests.simulated_queue import CAPACITY, SimulatedQueue


@pytest.mark.parametrize(
    ("launches", "seconds", "host", "said"),
    [
        (57, 2e-6, 10e-6, HOST),
        (57, 100e-6, 10e-6, DEVICE),
        (300, 9.9e-6, 10e-6, DEVICE),  # queueing takes all of its time, and the device is hardly idle
        (CAPACITY // 2, 2e-6, 10e-6, HOST),  # one step fits, two do not
        (CAPACITY // 2, 100e-6, 10e-6, DEVICE),
        (2 * CAPACITY, 2e-6, 10e-6, UNKNOWN),
        (2 * CAPACITY, 100e-6, 10e-6, UNKNOWN),  # the share of enqueueing is high, and the device is not idle
    ],
)
def test_launch_bound_is_what_keeps_a_device_waiting_whatever_the_queue_holds(
    monkeypatch, launches, seconds, host, said
):
    queue = SimulatedQueue()
    queue.install(monkeypatch)
    clock = CudaClock(torch.device("cuda:0"), Blind())
    load = under_load(Arm("a", queue.step(launches, seconds, host), steps=20), clock, 0.05)
    row = pd.DataFrame([asdict(load)]).astype({"busy_seconds": float})  # as it is stored
    assert _load_cells(row)["bound_by"] == said, load
    assert load.seconds == pytest.approx(launches * max(seconds, host), rel=0.1)
    if said != UNKNOWN:
        assert load.busy_seconds == pytest.approx(launches * seconds, rel=0.01)


@dataclass
class ScriptedGpu:
    """A clock of blocks of one second, on a GPU of 300 watts whose counter of energy lags behind."""

    states: Iterator[tuple[float, str]]
    lag: float = 0.4
    now: float = 0.0
    blocks: int = 0
    asked: list[float] = field(default_factory=list)

    def time(self, block: Callable[[], object]) -> Reading:
        block()
        self.blocks += 1
        self.now += 1.0
        clock, throttle = next(self.states)
        return Reading(1.0, 1.0, 0.25, State(clock, 300.0, 60.0, throttle, 300.0 * (self.now - self.lag)))

    def busy_seconds(self, block: Callable[[], object], enqueue_seconds: float) -> float | None:
        self.asked.append(enqueue_seconds)
        return 0.8


def states(*given: tuple[float, str]) -> Iterator[tuple[float, str]]:
    yield from given
    while True:
        yield 1500.0, ""


def test_energy_is_over_a_window_under_load_and_the_first_block_is_before_it():
    gpu, steps = ScriptedGpu(states((300.0, "thermal"))), []
    load = under_load(Arm("a", lambda: steps.append(1), steps=4), gpu, WINDOW_SECONDS)
    assert gpu.blocks == 1 + WINDOW_SECONDS
    assert load == Load(20, 0.25, 0.2, 1500.0, 300.0, 60.0, "", 75.0)
    assert gpu.asked == [0.25] * 3, "what queueing took in the window"


def test_clocks_are_the_windows_median_and_reasons_are_all_of_them():
    gpu = ScriptedGpu(states((0, ""), (1000.0, "power"), (1200.0, "power+thermal"), (1400.0, "")))
    load = under_load(Arm("a", lambda: None), gpu, 5.0)
    assert (load.sm_clock_mhz, load.throttle) == (1400.0, "power+thermal")


def test_a_window_too_short_for_the_counter_tells_no_energy():
    load = under_load(Arm("a", lambda: None), ScriptedGpu(states()), WINDOW_SECONDS - 1)
    assert (load.joules, load.power_watts) == (None, 300.0)


def test_what_a_device_does_not_tell_is_missing(monkeypatch):
    queue = SimulatedQueue()
    queue.install(monkeypatch)
    load = under_load(Arm("a", queue.step(1, 1.0)), CudaClock(torch.device("cuda:0"), Blind()), 6.0)
    told = (load.sm_clock_mhz, load.power_watts, load.temperature_celsius, load.throttle, load.joules)
    assert told == (None,) * 5


@pytest.mark.parametrize(("enqueue_seconds", "times"), [(1e-4, 32), (0.05, 8), (3.0, 1), (0.0, 32)])
def test_steps_are_queued_behind_a_sleep_that_no_gpu_cuts_short(enqueue_seconds, times):
    asked, calls = [], []

    class Device:
        def busy_seconds(self, block, seconds):
            asked.append(seconds)
            block()
            return 0.25 * times

    assert queued_seconds(lambda: calls.append(1), 32, Device(), enqueue_seconds) == 0.25
    assert asked == [times * enqueue_seconds] * REPEATS
    assert len(calls) == times * REPEATS
