"""Peak memory of a step, by the allocator's own account: never the process's resident size."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

WARM_UP_STEPS = 2
MEASURED_STEPS = 2
_MARK = "fgbench: warm"


@dataclass(frozen=True)
class Peak:
    """The most bytes that lived at once during a step, with all that the step keeps between calls.

    Attributes:
        allocated: in tensors.
        reserved: held by CUDA's caching allocator; None on a CPU.
    """

    allocated: int
    reserved: int | None


def peak_of_step(prepare: Callable[[], Callable[[], object]], device: torch.device) -> Peak:
    """Peak bytes of a step after warm-up, over all that `prepare` and the step allocate.

    Args:
        prepare: builds the model and whatever the step needs, and gives the step. Tensors that
            exist before it is called do not count.
        device: where the step runs.
    """
    gc.collect()  # garbage freed while measuring would count below zero
    return _peak_on_cuda(prepare, device) if device.type == "cuda" else _peak_on_cpu(prepare)


def _peak_on_cuda(prepare: Callable[[], Callable[[], object]], device: torch.device) -> Peak:
    import torch

    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    reserved_before = torch.cuda.memory_reserved(device)
    step = prepare()
    for _ in range(WARM_UP_STEPS):
        step()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()  # before the reset: the order changes the reserved peak
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(MEASURED_STEPS):
        step()
    torch.cuda.synchronize(device)
    return Peak(
        torch.cuda.max_memory_allocated(device) - before,
        torch.cuda.max_memory_reserved(device) - reserved_before,
    )


def _peak_on_cpu(prepare: Callable[[], Callable[[], object]]) -> Peak:
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step = prepare()
        for _ in range(WARM_UP_STEPS):
            step()
        with record_function(_MARK):
            pass
        for _ in range(MEASURED_STEPS):
            step()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    warm_at = next(event.start_ns() for event in events if event.name() == _MARK)
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    living = peak = 0
    for at, change in changes:
        living += change
        # What lives when the measured steps begin is the first level of their peak.
        peak = living if at < warm_at else max(peak, living)
    return Peak(peak, reserved=None)
