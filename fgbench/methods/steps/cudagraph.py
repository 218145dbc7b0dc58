"""CUDA graphs: a step captured whole, random numbers included, and replayed as one launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.methods import Batch, Part, Step
from fgbench.methods.steps.optimizer import each_of
from fgbench.methods.steps.optimizer_state import OptimizerState

WARM_UP_CALLS = 3  # before a capture: kernels chosen, workspaces and autograd's buffers made


class Graph:
    """A function of tensors as one CUDA graph for each of their shapes."""

    def __init__(
        self,
        function: Callable[..., Any],
        kept: Callable[[], Sequence[Tensor]],
        generators: Sequence[torch.Generator] = (),
        optimizers: Sequence[OptimizerState] = (),
    ) -> None:
        """`kept` gives what the function writes to: calls before the capture must leave it as it was.

        `generators` are those that it draws from besides the device's own: registered, so that each
        replay draws on from where the last one ended. `optimizers` are
        the states of those that it steps.
        """
        self.function, self.kept, self.generators = function, kept, generators
        self.optimizers = optimizers
        self.captured: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    def __call__(self, *tensors: Tensor) -> Any:
        """Replay on these tensors; what it gives is overwritten by the next call."""
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
        current, aside = torch.cuda.current_stream(device), _aside(device)
        self._warm_up(inputs, current, aside)
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, stream=aside):
                output = self.function(*inputs)
        finally:
            torch.cuda.set_stream(current)  # where the capture raises, torch leaves its own in place
        return graph, inputs, output

    def _warm_up(self, inputs: Sequence[Tensor], current: Any, aside: Any) -> None:
        """A few calls on the stream of the capture, then everything as it was before them."""
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


@cache
def _aside(device: torch.device) -> Any:
    """One stream for every warm-up and capture: cuBLAS keeps a workspace for each that it has met."""
    return torch.cuda.Stream(device)


class CapturedStep(Step):
    """Another step, as one graph for each learning rate, which is a constant in it."""

    def __init__(self, step: Step, model: nn.Module) -> None:
        self.step, self.model = step, model
        self.parameters, self.tolerance = step.parameters, step.tolerance  # type: ignore[misc]
        self.optimizer = step.optimizer
        self.optimizer_states = [OptimizerState(optimizer) for optimizer in each_of(step.optimizer)]
        self.graphs: dict[float, Graph] = {}

    def parts(self, batch: Batch, learning_rate: float) -> dict[str, Part]:
        """One part: the replay."""
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
        """The captured step."""
        self.step.get_ready(batch)

    def expected(self, gradient: Sequence[Tensor], model: nn.Module, batch: Batch) -> list[Tensor]:
        """What the captured step says: its tangents are those of the last replay."""
        return self.step.expected(gradient, model, batch)

    def generators(self) -> list[torch.Generator]:
        """Those of the captured step."""
        return self.step.generators()

    def state(self) -> dict[str, Any]:
        """That of the captured step."""
        return self.step.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Into the captured step."""
        self.step.load_state(state)

    def notes(self) -> list[str]:
        """Those of the captured step."""
        return self.step.notes()
