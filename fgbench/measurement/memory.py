"""Peak memory of a step, as the allocator counts it; the process's resident size would mislead."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

WARM_UP_STEPS = 2
MEASURED_STEPS = 2
_WARM, _EDGE = "fgbench: warm", "fgbench: edge"

_edges: list[int] = []  # when `edge` was called, in microseconds since the epoch


@dataclass(frozen=True)
class Peak:
    """The most bytes that lived at once during a step, including all that the step keeps between calls.

    Attributes:
        allocated: bytes in tensors.
        reserved: bytes held by CUDA's caching allocator; None on a CPU.
        kept: the part of `allocated` that was there before the step.
        made: the part that the step made and that was still alive at an `edge`.
        passing: the rest. These three are None where the allocator kept no record.
    """

    allocated: int
    reserved: int | None
    kept: int | None = None
    made: int | None = None
    passing: int | None = None


@dataclass(frozen=True)
class Change:
    """An allocation, or, with negative bytes, the freeing of one; `at` is its time."""

    at: int
    address: int
    bytes: int


def peak_of_step(prepare: Callable[[], Callable[[], object]], device: torch.device) -> Peak:
    """Peak bytes of a step after warm-up, over all that `prepare` and the step allocate.

    Args:
        prepare: builds the model and whatever else the step needs, and gives the step. Tensors that exist
            before it is called do not count.
        device: where the step runs.
    """
    gc.collect()  # otherwise garbage freed during the step would look like the step's own
    return _peak_on_cuda(prepare, device) if device.type == "cuda" else _peak_on_cpu(prepare)


def edge() -> None:
    """Mark a moment within a step: what the step has made and is alive now is a result, not a temporary."""
    from torch.profiler import record_function

    _edges.append(time.time_ns() // 1000)
    with record_function(_EDGE):
        pass


def peak_of_changes(changes: Iterable[Change], warm_at: int, edges: Sequence[int]) -> Peak:
    """The peak after `warm_at`, split into what was kept, made and passing at that moment.

    Args:
        changes: allocations and frees in order of time; the freeing of an unknown block is ignored.
        warm_at: when the measured steps began.
        edges: when `edge` was called, in order.
    """
    ordered = list(changes)
    lives = _lives(ordered)
    now = dict.fromkeys(("kept", "made", "passing"), 0)
    best: dict[str, int] | None = None
    for change, life in zip(ordered, lives, strict=True):
        if life is None:
            continue
        begin, end = life
        if best is None and change.at >= warm_at:
            best = dict(now)  # the peak is at least what is alive when the measured steps begin
        now[_kind(begin, end, warm_at, edges)] += change.bytes
        if change.at >= warm_at and best is not None and sum(now.values()) > sum(best.values()):
            best = dict(now)
    best = best or now
    return Peak(sum(best.values()), None, **best)


def _kind(begin: int, end: int | None, warm_at: int, edges: Sequence[int]) -> str:
    if begin < warm_at:
        return "kept"
    outlived = any(begin <= at and (end is None or at < end) for at in edges)
    return "made" if outlived else "passing"


def _lives(changes: Sequence[Change]) -> list[tuple[int, int | None] | None]:
    """For each change, when its block was allocated and freed; None for the freeing of an unknown block."""
    lives: list[tuple[int, int | None] | None] = [None] * len(changes)
    living: dict[int, int] = {}
    for index, change in enumerate(changes):
        if change.bytes > 0:
            living[change.address] = index
            lives[index] = (change.at, None)
        elif change.address in living:
            began = living.pop(change.address)
            lives[began] = lives[index] = (changes[began].at, change.at)
    return lives


def _peak_on_cpu(prepare: Callable[[], Callable[[], object]]) -> Peak:
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step = prepare()
        for _ in range(WARM_UP_STEPS):
            step()
        with record_function(_WARM):
            pass
        for _ in range(MEASURED_STEPS):
            step()
    events = list(_all(profiler.profiler.kineto_results.experimental_event_tree()))  # type: ignore[union-attr]
    allocations = [e for e in events if e.tag == _EventType.Allocation]
    changes = [
        Change(e.start_time_ns, e.extra_fields.ptr, e.extra_fields.alloc_size)
        for e in sorted(allocations, key=lambda e: e.start_time_ns)
    ]
    warm_at = next(e.start_time_ns for e in events if e.name == _WARM)
    return peak_of_changes(changes, warm_at, sorted(e.start_time_ns for e in events if e.name == _EDGE))


def _all(events: Iterable[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _all(event.children)


def _peak_on_cuda(prepare: Callable[[], Callable[[], object]], device: torch.device) -> Peak:
    import torch

    _make_workspaces(device)
    torch.cuda.empty_cache()
    before = _requested(device, "current")
    reserved_before = torch.cuda.memory_reserved(device)
    with _history_recorded():
        step = prepare()
        for _ in range(WARM_UP_STEPS):
            step()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()  # before the reset: the order changes the reserved peak
        torch.cuda.reset_peak_memory_stats(device)
        warm_at = time.time_ns() // 1000
        _edges.clear()
        for _ in range(MEASURED_STEPS):
            step()
        torch.cuda.synchronize(device)
        traced = _traced_on_cuda(device, warm_at)
    return Peak(
        _requested(device, "peak") - before,
        torch.cuda.max_memory_reserved(device) - reserved_before,
        *((traced.kept, traced.made, traced.passing) if traced else ()),
    )


def _requested(device: torch.device, when: str) -> int:
    """Bytes in tensors, `current` or at their `peak`, as they were asked for.

    `memory_allocated` counts blocks, which are up to a megabyte larger, depending on what was freed before.
    CUDA's own allocator, cudaMallocAsync, tells no more than that.
    """
    import torch

    counted = "requested" if torch.cuda.get_allocator_backend() == "native" else "allocated"
    return int(torch.cuda.memory_stats(device)[f"{counted}_bytes.all.{when}"])


def _make_workspaces(device: torch.device) -> None:
    """Make cuBLAS allocate its workspaces now, so that they are not counted as a step's memory.

    It keeps up to 32 MiB for each thread and stream, from the first product there. This thread and that of
    backward passes are the ones used.
    """
    import torch

    x = torch.zeros(16, 16, device=device, requires_grad=True)
    with torch.enable_grad():
        torch.nn.functional.linear(x, x, x[0]).sum().backward()
    torch.cuda.synchronize(device)


@contextmanager
def _history_recorded() -> Iterator[None]:
    """Record allocations, by a private interface, without which the kinds are unknown; never for longer."""
    import torch

    with suppress(Exception):
        torch.cuda.memory._record_memory_history(context=None)
    try:
        yield
    finally:
        with suppress(Exception):
            torch.cuda.memory._record_memory_history(enabled=None)


def _traced_on_cuda(device: torch.device, warm_at: int) -> Peak | None:
    import torch

    with suppress(Exception):
        trace = torch.cuda.memory._snapshot(device)["device_traces"][device.index or 0]
        signs = {"alloc": 1, "free_requested": -1}
        changes = [
            Change(e["time_us"], e["addr"], signs[e["action"]] * e["size"])
            for e in trace
            if e["action"] in signs
        ]
        return peak_of_changes(changes, warm_at, _edges) if changes else None
    return None
