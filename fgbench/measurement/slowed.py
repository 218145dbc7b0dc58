"""A step made slower by a known share, which a regression gate that works has to find."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from fgbench.measurement.clock import Clock

READINGS = 5  # how often a GPU's step, and its sleep, are timed
CYCLES = 1_000_000  # length of the sleep that is timed


def slowed(
    step: Callable[[], Tensor], share: float, clock: Clock, device: torch.device
) -> Callable[[], Tensor]:
    """A step that waits afterwards, for a share of the time that it took.

    On a GPU both wait: the device, whose wait is put into its queue, and the host, as the device's alone
    would pass unseen in a step for which it waits for the host.

    Args:
        step: one training step.
        share: 0.1 makes it take 1.1 times as long.
        clock: the device's clock, by which a GPU's step is timed beforehand.
        device: where the step runs.
    """
    if device.type == "cuda":
        step = _sleeping(step, share, clock)

    def run() -> Tensor:
        start = perf_counter()
        value = step()
        now = perf_counter()
        end = now + share * (now - start)
        while perf_counter() < end:
            pass
        return value

    return run


def _sleeping(step: Callable[[], Tensor], share: float, clock: Clock) -> Callable[[], Tensor]:
    """A GPU's step with a sleep of the device after it."""

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
