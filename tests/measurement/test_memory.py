"""Peak memory on a CPU against tensors counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fgbench.measurement.memory import (
    MEASURED_STEPS,
    WARM_UP_STEPS,
    Change,
    Peak,
    _peak_on_cuda,
    edge,
    peak_of_changes,
    peak_of_step,
)

CPU = torch.device("cpu")
KB = 1024


def bytes_tensor(size: int) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8)


def peak(step: Callable[[], object]) -> int:
    return peak_of_step(lambda: step, CPU).allocated


def test_a_step_that_allocates_nothing_has_a_peak_of_0():
    assert peak(lambda: None) == 0


def test_tensors_that_live_together_add_up():
    def step() -> None:
        one = bytes_tensor(64 * KB)
        other = bytes_tensor(32 * KB)
        del one, other

    assert peak(step) == 96 * KB


def test_tensors_that_follow_each_other_do_not():
    def step() -> None:
        one = bytes_tensor(64 * KB)
        del one
        other = bytes_tensor(48 * KB)
        del other

    assert peak(step) == 64 * KB


def test_what_prepare_keeps_counts_and_what_was_there_before_does_not():
    before = bytes_tensor(512 * KB)

    def prepare() -> Callable[[], object]:
        kept = bytes_tensor(128 * KB)
        return lambda: (kept, before, bytes_tensor(16 * KB))

    # Of the tuple that a step gives, nothing lives on: 128 kept + 16 at the peak.
    assert peak_of_step(prepare, CPU).allocated == 144 * KB


def test_what_is_needed_only_before_the_steps_are_warm_does_not_count():
    calls = []

    def step() -> None:
        calls.append(0)
        temporary = bytes_tensor((1024 if len(calls) <= WARM_UP_STEPS else 8) * KB)
        del temporary

    assert peak(step) == 8 * KB
    assert len(calls) == WARM_UP_STEPS + MEASURED_STEPS


def test_what_a_step_keeps_for_the_next_counts():
    kept: list[torch.Tensor] = []

    def step() -> None:
        fresh = bytes_tensor(40 * KB)
        kept[:] = [fresh]

    # The old one goes only when the new one is there.
    assert peak(step) == 80 * KB


def test_backprop_of_a_linear_layer_is_counted_exactly():
    batch, inputs, outputs = 32, 64, 16

    def prepare() -> Callable[[], object]:
        weight = torch.zeros(outputs, inputs, requires_grad=True)
        x = torch.zeros(batch, inputs)

        def step() -> None:
            (x @ weight.T).sum().backward()
            weight.grad = None

        return step

    kept = 4 * (outputs * inputs + batch * inputs)
    least = kept + 4 * outputs * inputs  # with the gradient
    most = least + 4 * (2 * batch * outputs + outputs * inputs + 64)  # with output and its gradient
    assert least <= peak_of_step(prepare, CPU).allocated <= most


def test_a_cpu_reserves_nothing():
    assert peak_of_step(lambda: lambda: None, CPU).reserved is None


def test_peak_is_the_same_twice():
    def step() -> object:
        return torch.randn(100, 100) @ torch.randn(100, 100)

    assert peak(step) == peak(step)


def test_what_lives_at_the_peak_is_told_apart():
    def prepare() -> Callable[[], object]:
        kept = bytes_tensor(128 * KB)

        def step() -> None:
            made = bytes_tensor(32 * KB)
            passing = bytes_tensor(4 * KB)
            del passing
            edge()
            passing = bytes_tensor(16 * KB)
            del made, passing

        return lambda: (step(), kept)

    found = peak_of_step(prepare, CPU)
    assert (found.kept, found.made, found.passing) == (128 * KB, 32 * KB, 16 * KB)
    assert found.allocated == 176 * KB


class TestPeakOfChanges:
    def test_nothing_is_nothing(self):
        assert peak_of_changes([], 0, []) == Peak(0, None, 0, 0, 0)

    def test_an_address_that_is_used_again_is_another_block(self):
        changes = [Change(1, 7, 10), Change(2, 7, -10), Change(5, 7, 30), Change(6, 7, -30)]
        assert peak_of_changes(changes, 4, []) == Peak(30, None, 0, 0, 30)

    def test_an_end_without_a_beginning_takes_nothing_away(self):
        changes = [Change(1, 3, -500), Change(5, 7, 30), Change(6, 3, -500)]
        assert peak_of_changes(changes, 4, []) == Peak(30, None, 0, 0, 30)

    def test_before_the_steps_are_warm_only_what_stays_counts(self):
        changes = [
            Change(1, 1, 100),
            Change(2, 2, 900),
            Change(3, 2, -900),
            Change(5, 3, 1),
            Change(6, 3, -1),
        ]
        assert peak_of_changes(changes, 4, []) == Peak(101, None, 100, 0, 1)

    def test_what_outlives_an_edge_was_made_and_what_ends_before_passes(self):
        changes = [Change(5, 1, 8), Change(6, 2, 4), Change(7, 2, -4), Change(9, 3, 2), Change(10, 1, -8)]
        assert peak_of_changes(changes, 4, [8]) == Peak(12, None, 0, 8, 4)
        assert peak_of_changes(changes, 4, []) == Peak(12, None, 0, 0, 12)


class ScriptedMemory(TorchDispatchMode):
    """CUDA's allocator on a CPU: what is told to be allocated, and cuBLAS's workspaces at first products.

    A block may be larger than what was asked for; `recording` is whether a history is kept.
    """

    WORKSPACE = 32 * KB * KB

    def __init__(self, beyond: int = 0) -> None:
        super().__init__()
        self.beyond, self.recording = beyond, False
        self.allocated = self.highest = 0
        self.workspaces: set[bool] = set()  # of the thread that goes forward, and of the one that goes back

    def allocate(self, size: int) -> None:
        self.allocated += size
        self.highest = max(self.highest, self.allocated)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        going_back = torch._C._current_graph_task_id() >= 0
        if func._schema.name in ("aten::mm", "aten::addmm") and going_back not in self.workspaces:
            self.workspaces.add(going_back)
            self.allocate(self.WORKSPACE)
        return func(*args, **(kwargs or {}))

    def reset(self, device: object) -> None:
        self.highest = self.allocated

    def stats(self, device: object) -> dict[str, int]:
        native = torch.cuda.get_allocator_backend() == "native"
        asked = {"current": self.allocated, "peak": self.highest}
        blocks = {"current": self.allocated, "peak": self.highest + self.beyond}
        return {
            **{f"requested_bytes.all.{when}": size if native else 0 for when, size in asked.items()},
            **{f"allocated_bytes.all.{when}": size for when, size in blocks.items()},
        }

    def record(self, enabled: str | None = "all", context: str | None = "all") -> None:
        self.recording = enabled is not None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("memory_allocated", "memory_reserved"):
            monkeypatch.setattr(torch.cuda, name, lambda device: self.allocated)
        for name in ("max_memory_allocated", "max_memory_reserved"):
            monkeypatch.setattr(torch.cuda, name, lambda device: self.highest + self.beyond)
        monkeypatch.setattr(torch.cuda, "memory_stats", self.stats)
        monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", self.record)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        for name in ("empty_cache", "synchronize"):
            monkeypatch.setattr(torch.cuda, name, lambda device=None: None)


def test_cublas_workspaces_are_no_steps(monkeypatch):
    """Neither that of the forward pass nor that of autograd's thread, whichever step is first."""
    memory = ScriptedMemory()
    memory.install(monkeypatch)
    weight = torch.zeros(4, 4, requires_grad=True)

    def step() -> None:
        memory.allocate(KB)
        (torch.ones(4, 4) @ weight @ weight).sum().backward()
        memory.allocate(-KB)

    with memory:
        first, second = (_peak_on_cuda(lambda: step, CPU) for _ in range(2))
    assert memory.workspaces == {True, False}
    assert (first.allocated, second.allocated) == (KB, KB)
    assert first.reserved == KB


@pytest.mark.parametrize(("backend", "beyond"), [("native", 0), ("cudaMallocAsync", 700 * KB)])
def test_the_peak_is_of_tensors_and_not_of_the_blocks_that_hold_them(monkeypatch, backend, beyond):
    """Blocks are larger by what torch's allocator did not split off; CUDA's own does not tell them apart."""
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: backend)
    memory = ScriptedMemory(beyond=700 * KB)
    memory.install(monkeypatch)

    def step() -> None:
        memory.allocate(2048 * KB)
        memory.allocate(-2048 * KB)

    with memory:
        assert _peak_on_cuda(lambda: step, CPU).allocated == 2048 * KB + beyond


@pytest.mark.parametrize("answers", [{"device_traces": [[]]}, None], ids=["no history", "no such interface"])
def test_without_a_history_the_kinds_are_unknown_and_not_nothing(monkeypatch, answers):
    memory = ScriptedMemory()
    memory.install(monkeypatch)
    monkeypatch.setattr(torch.cuda.memory, "_snapshot", lambda device: answers)
    with memory:
        found = _peak_on_cuda(lambda: lambda: None, CPU)
    assert (found.kept, found.made, found.passing) == (None, None, None)


def test_no_history_is_kept_after_a_step_for_which_memory_was_too_little(monkeypatch):
    """It would slow the steps that are timed after it in this process."""
    memory = ScriptedMemory()
    memory.install(monkeypatch)

    def prepare() -> Callable[[], object]:
        assert memory.recording
        raise torch.OutOfMemoryError("CUDA out of memory")

    with memory, pytest.raises(torch.OutOfMemoryError):
        _peak_on_cuda(prepare, CPU)
    assert not memory.recording


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_on_a_gpu_is_that_of_the_tensors():
    device = torch.device("cuda:0")
    size = 3 * 2**20 + 1  # in a block that is larger

    def step() -> None:
        freed = torch.zeros(size + 300 * KB, dtype=torch.uint8, device=device)
        del freed
        torch.zeros(size, dtype=torch.uint8, device=device)

    found = peak_of_step(lambda: step, device)
    assert found.allocated == size + 300 * KB
    assert (found.kept, found.made, found.passing) == (0, 0, size + 300 * KB)
    assert found.reserved is not None
    assert found.reserved >= found.allocated


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kinds_on_a_gpu_are_told_apart_by_the_hosts_clock():
    """The allocator's own clock has to agree with it within what a few lines of Python take."""
    device, megabyte = torch.device("cuda:0"), 2**20

    def prepare() -> Callable[[], object]:
        kept = torch.zeros(2 * megabyte, dtype=torch.uint8, device=device)

        def step() -> None:
            made = torch.zeros(3 * megabyte, dtype=torch.uint8, device=device)
            edge()
            passing = torch.zeros(5 * megabyte, dtype=torch.uint8, device=device)
            del made, passing

        return lambda: (step(), kept)

    found = peak_of_step(prepare, device)
    assert (found.kept, found.made, found.passing) == (2 * megabyte, 3 * megabyte, 5 * megabyte)
