"""A step made slower by a known share: what a gate that works has to find."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from fgbench.measurement.clock import Clock

READINGS = 5  # of a GPU's step, and of its sleep
CYCLES = 1_000_000  # of the sleep that is timed


def slowed(
    step: Callable[[], Tensor], share: float, clock: Clock, device: torch.device
) -> Callable[[], Tensor]:
    """The step, and then waiting for a share of what it took.

    Args:
        step: one training step.
        share: 0.1 makes it take 1.1 times as long.
        clock: of the device; a GPU's step is timed beforehand, and waits in its queue.
        device: where it runs.
    """
    if device.type == "cuda":
        return _slowed_in_queue(step, share, clock)

    def run() -> Tensor:
        start = perf_counter()
        value = step()
        now = perf_counter()
        end = now + share * (now - start)
        while perf_counter() < end:
            pass
        return value

    return run


def _slowed_in_queue(step: Callable[[], Tensor], share: float, clock: Clock) -> Callable[[], Tensor]:
    def sleep(cycles: int) -> None:
        torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]

    def seconds(work: Callable[[], object]) -> float:
        work()
        return median(clock.time(work).seconds for _ in range(READINGS))

    cycles = round(CYCLES * share * seconds(step) / seconds(lambda: sleep(CYCLES)))

    def run() -> Tensor:
        value = step()
        sleep(cycles)
        return value

    return run
