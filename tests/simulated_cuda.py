"""CUDA graphs on a CPU: what is captured is recorded operation by operation, without effect, and replayed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fgbench.methods.steps import cudagraph

WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::linalg_cholesky", "aten::is_nonzero")


class Recorder(TorchDispatchMode):
    """Every operation with its arguments and what it gave; numbers among them are constants, as on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[tuple[Any, Any, Any, Any]] = []
        self.written: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func._schema.name not in WAITS, f"{func} waits for the device, which a capture refuses"
        kwargs = kwargs or {}
        for tensor in _written(func, args, kwargs):
            whole = tensor.detach().new_empty(0).set_(tensor.untyped_storage())  # type: ignore[call-overload]
            self.written.setdefault(whole.data_ptr(), (whole, whole.clone()))
        given = tree_map(_alias, (args, kwargs))
        out = func(*args, **kwargs)
        self.recorded.append((func, *given, tree_map(_alias, out)))
        return out

    def undo(self) -> None:
        """A capture computes nothing."""
        for tensor, value in self.written.values():
            tensor.copy_(value)


def _alias(value: Any) -> Any:
    """The same memory, its shape its own: some operations change a tensor's shape in place."""
    return value.detach() if isinstance(value, Tensor) else value


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The arguments that an operation writes into."""
    given = [*zip(func._schema.arguments, args, strict=False)]
    given += [(a, kwargs[a.name]) for a in func._schema.arguments if a.name in kwargs]
    written = [value for argument, value in given if argument.alias_info and argument.alias_info.is_write]
    return [leaf for leaf in tree_leaves(written) if isinstance(leaf, Tensor)]


class SimulatedGraph:
    """Stands for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.generators: list[torch.Generator] = [torch.default_generator]
        self.replays = 0

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self.operations:
            given = func(*args, **kwargs)
            if func._schema.is_mutable or any(r.alias_info for r in func._schema.returns):
                continue  # in place, or a view of what was computed
            for into, value in zip(tree_leaves(out), tree_leaves(given), strict=True):
                if isinstance(into, Tensor):
                    into.copy_(value)


class SimulatedCuda:
    """What of torch.cuda a capture uses, with what it was called with, in order."""

    CUDAGraph = SimulatedGraph

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.stream_now = "main"
        self.streams = 0

    def Stream(self, device: torch.device) -> Any:  # noqa: N802 - torch's name
        self.streams += 1
        return Stream(self, f"aside {self.streams}")

    def current_stream(self, device: object = None) -> Any:
        return Stream(self, self.stream_now)

    def graph_pool_handle(self) -> tuple[int, int]:
        return 0, 1

    def set_stream(self, stream: Any) -> None:
        self.stream_now = stream.name

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.stream_now = self.stream_now, stream.name
        yield
        self.stream_now = before

    @contextmanager
    def graph(self, graph: SimulatedGraph, pool: Any, stream: Any) -> Iterator[None]:
        """As torch's: where the body raises, its stream stays the current one."""
        before, self.stream_now = self.stream_now, stream.name
        drawn = [g.get_state() for g in graph.generators]
        with Recorder() as recorder:
            yield
        recorder.undo()
        graph.operations = recorder.recorded
        for generator, state in zip(graph.generators, drawn, strict=True):
            generator.set_state(state)
        self.stream_now = before

    def get_rng_state(self, device: object) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object) -> None:
        torch.set_rng_state(state)


class Stream:
    def __init__(self, cuda: SimulatedCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: Stream) -> None:
        self.cuda.calls.append(f"{self.name} waits for {other.name}")


def simulate(monkeypatch: pytest.MonkeyPatch) -> SimulatedCuda:
    """CUDA graphs, captured and replayed on the CPU, until the end of a test."""
    cuda = SimulatedCuda()
    for name in (
        "CUDAGraph",
        "Stream",
        "current_stream",
        "set_stream",
        "stream",
        "graph",
        "graph_pool_handle",
    ):
        monkeypatch.setattr(cudagraph.torch.cuda, name, getattr(cuda, name))
    for name in ("get_rng_state", "set_rng_state"):
        monkeypatch.setattr(cudagraph.torch.cuda, name, getattr(cuda, name))
    monkeypatch.setattr(cudagraph.torch.cuda, "default_generators", {None: torch.default_generator})
    cudagraph._asides.clear()
    on_any: Callable[..., list[str]] = lambda **_options: ["cpu", "cuda"]  # noqa: E731
    for name, module in list(sys.modules.items()):
        if name.startswith("torch.optim.") and hasattr(module, "_get_capturable_supported_devices"):
            monkeypatch.setattr(module, "_get_capturable_supported_devices", on_any)
    return cuda
