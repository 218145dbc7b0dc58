"""CUDA graphs: a whole step, random numbers included, is captured once and replayed as one launch."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.methods import Batch, Part, Step
from fgbench.methods.steps.optimizer import each_of
from fgbench.methods.steps.optimizer_state import OptimizerState

ENDED = "previous error during capture"  # of CUDA's message at the end of a capture that failed
WARM_UP_CALLS = 3  # calls before a capture, which choose kernels, make workspaces and autograd's buffers


class Graph:
    """A function of tensors, as a CUDA graph for each choice of shapes."""

    def __init__(
        self,
        function: Callable[..., Any],
        kept: Callable[[], Sequence[Tensor]],
        generators: Sequence[torch.Generator] = (),
        optimizers: Sequence[OptimizerState] = (),
    ) -> None:
        """Wrap a function.

        Args:
            function: what is captured.
            kept: gives the tensors that the function writes to, which the calls before a capture must
                leave as they were.
            generators: those that it draws from besides the device's own; they are registered, so that each
                replay continues where the last one ended.
            optimizers: the states of the optimisers that it steps.
        """
        self.function, self.kept, self.generators = function, kept, generators
        self.optimizers = optimizers
        self.captured: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    def __call__(self, *tensors: Tensor) -> Any:
        """Replay on these tensors; the result is overwritten by the next call."""
        shapes = tuple(t.shape for t in tensors)
        if shapes not in self.captured:
            self.captured[shapes] = self._capture(tensors)
        graph, inputs, output = self.captured[shapes]
        for own, given in zip(inputs, tensors, strict=True):
            own.copy_(given)
        graph.replay()
        return output

    def _capture(self, tensors: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any]:
        inputs = [t.detach().clone() for t in tensors]
        device = inputs[0].device
        gc.collect()  # no graph that was dropped may be destroyed while another one is captured
        current, own = torch.cuda.current_stream(device), _aside(device)
        aside = own.stream
        self._warm_up(inputs, current, aside)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        own.graph = weakref.ref(graph)
        for generator in self.generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, pool=pool, stream=aside):
                output = self.function(*inputs)
        except Exception as error:
            torch.cuda.set_stream(current)  # torch leaves the capture's stream current if it raises
            _end_capture(device, pool)
            if ENDED in str(error) and error.__context__:
                raise error.__context__ from None  # what ended it, of which its end complains in turn
            raise
        return graph, inputs, output

    def _warm_up(self, inputs: Sequence[Tensor], current: Any, aside: Any) -> None:
        """Make a few calls on the stream of the capture, then put everything back as it was before them."""
        device = inputs[0].device
        before = [(t, t.detach().clone()) for t in self.kept()]
        drawn = [g.get_state() for g in self.generators], torch.cuda.get_rng_state(device)
        aside.wait_stream(current)
        with torch.cuda.stream(aside), ExitStack() as before_steps:
            for optimizer in self.optimizers:
                before_steps.enter_context(optimizer.as_before())
            for _ in range(WARM_UP_CALLS):
                self.function(*inputs)
        current.wait_stream(aside)
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
        for generator, state in zip(self.generators, drawn[0], strict=True):
            generator.set_state(state)
        torch.cuda.set_rng_state(drawn[1], device)


@dataclass
class _Aside:
    """A stream for a warm-up and a capture, and the graph that was captured on it last."""

    stream: Any
    graph: weakref.ref[Any] | None = None


_asides: dict[torch.device, list[_Aside]] = {}


def _aside(device: torch.device) -> _Aside:
    """A stream on which no living graph was captured; one that was used before, if there is one.

    cuBLAS keeps a workspace for each stream. When a graph is destroyed torch frees that of its stream, and
    any other graph that was captured there would go on to write to it.
    """
    made = _asides.setdefault(device, [])
    free = next((own for own in made if own.graph is None or own.graph() is None), None)
    if free is None:
        made.append(free := _Aside(torch.cuda.Stream(device)))
    return free


def _end_capture(device: torch.device, pool: Any) -> None:
    """Let the process allocate, capture and draw again after a capture that failed.

    torch 2.11 goes on to count the device's memory and generator as being captured: nothing else could be
    captured then, nor draw, as dropout does. A copy of the generator's state does not count so.
    """
    with suppress(Exception):  # newer ones have ended it, and say that there is none
        torch._C._cuda_endAllocateToPool(device.index, pool)
    generator = torch.cuda.default_generators[device.index]
    state = generator.get_state()
    try:
        torch.empty(1, device=device).normal_()
        generator.set_state(state)
    except RuntimeError:
        generator.graphsafe_set_state(generator.clone_state())


class CapturedStep(Step):
    """Another step as a CUDA graph; there is one for each learning rate, which is a constant in the graph."""

    def __init__(self, step: Step, model: nn.Module) -> None:
        self.step, self.model = step, model
        self.parameters, self.tolerance = step.parameters, step.tolerance  # type: ignore[misc]
        self.optimizer, self.masks_of_its_own = step.optimizer, step.masks_of_its_own
        self.optimizer_states = [OptimizerState(optimizer) for optimizer in each_of(step.optimizer)]
        self.graphs: dict[float, Graph] = {}

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """The step's only part: the replay."""
        return {"step": partial(self._replay, batch, learning_rate)}

    def _replay(self, batch: Batch, learning_rate: float) -> None:
        if learning_rate not in self.graphs:
            self.graphs[learning_rate] = Graph(
                lambda x, y: self.step((x, y), learning_rate),
                self._kept,
                self.generators(),
                self.optimizer_states,
            )
        self.value = self.graphs[learning_rate](*batch)

    def _kept(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]

    def get_ready(self, batch: Batch) -> None:
        """As the captured step does."""
        self.step.get_ready(batch)

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """As the captured step says, whose tangents are those of the last replay."""
        return self.step.expected(gradient, model, batch)

    def generators(self) -> list[torch.Generator]:
        """The captured step's generators."""
        return self.step.generators()

    def state(self) -> dict[str, Any]:
        """The captured step's state."""
        return self.step.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Load the state into the captured step."""
        self.step.load_state(state)

    def notes(self) -> list[str]:
        """The captured step's notes."""
        return self.step.notes()
