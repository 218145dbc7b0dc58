"""The engine: the loss and its derivatives along k tangents, in one forward pass."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.pushforward.activity import ActivityContext
from fgbench.pushforward.context import Context, buffers_kept, draws_again
from fgbench.pushforward.dual import Dual, duals_in, map_duals, primal_of
from fgbench.pushforward.dual_numbers import by_dual_numbers
from fgbench.pushforward.fallback import by_jvp, module_by_jvp
from fgbench.pushforward.precision import PrecisionsMet
from fgbench.pushforward.program import Program
from fgbench.pushforward.rules import NoRuleError, rule_of_loss
from fgbench.pushforward.tangents import Full, Tangent

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Any, Tensor], Tensor]

# How far a traced model's output may be off the untraced one's, as a share, by the lowest dtype met on
# the way: rounding in another order. Wrong traces are off by shares of 1.
CLOSE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}


class UntraceableError(Exception):
    """A model that torch.fx cannot trace, or traces to something else; the message says why."""


class Pushforward:
    """A model and a loss, ready to be pushed forward along tangents of its parameters.

    Traced at the first batch, and again when the model goes from training to evaluation; a trace
    that gives another output than the model itself is not used.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self.programs: dict[bool, Program | None] = {}
        self._fallbacks: set[str] = set()

    @property
    def fallbacks(self) -> list[str]:
        """What ran without a rule of its own so far, in words."""
        found = set(self._fallbacks)
        for program in self.programs.values():
            found |= program.fallbacks if program else set()
        return sorted(found)

    @torch.no_grad()
    def __call__(
        self, batch: Batch, tangents: Mapping[nn.Parameter, Tangent], chunk: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The loss, [], and its derivative along each of k tangents, [k].

        Args:
            batch: input and target.
            tangents: of the parameters that are perturbed, k each.
            chunk: how many tangents to take at once; 0 for all. Each chunk repeats the value's own
                pass, with the same units dropped and buffers moved once.
        """
        by_id = {id(p): t for p, t in tangents.items()}
        count = next(iter(tangents.values())).count
        program = self.program(batch[0])
        if program is None:
            contexts = [_part(by_id, i, i + 1) for i in range(count)]
            return by_dual_numbers(self.model, self.loss, batch, contexts)
        size = chunk or count
        found = []
        for start in range(0, count, size):
            again = start + size < count
            with draws_again(batch[0].device, again), buffers_kept(self.model, again):
                context = _part(by_id, start, min(start + size, count))
                value, by_sample = self.run(program, context, batch)
                found.append(by_sample.sum(1))
        return value, torch.cat(found)

    def run(self, program: Program, context: Context, batch: Batch) -> tuple[Tensor, Tensor]:
        """One pass: the loss [] and its derivatives [k, B] by sample, or [k, 1] where a loss has no rule."""
        return self.derivatives(context, program(context, batch[0]), batch[1])

    @torch.no_grad()
    def push(self, context: Context, x: Any) -> Any:
        """The model's output, with tangents, for an input that may have some already.

        Args:
            context: with those of parameters.
            x: a tensor, a `Dual` of as many tangents as the context has, or a tuple of such.
        """
        program = self.program(map_duals(primal_of, x))
        if program is None:
            return module_by_jvp(context, self.model, (x,), {})
        return program(context, x)

    @torch.no_grad()
    def derivatives(self, context: Context, output: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of an output [], and its derivatives, of the shapes that `run` gives."""
        if not duals_in((output,)):
            value = self.loss(output, target)
            return value, value.new_zeros(context.count, 1)
        rule = rule_of_loss(self.loss)
        if rule is not None and isinstance(output, Dual):
            try:
                return rule(output, target)
            except NoRuleError:
                pass
        self._fallbacks.add("loss: torch.func.jvp")
        result = by_jvp(context, self.loss, (output, target), {})
        return result.primal, result.tangents.unsqueeze(1)

    @torch.no_grad()
    def program(self, x: Any) -> Program | None:
        """The traced model; None where it runs on dual numbers."""
        mode = self.model.training
        if mode not in self.programs:
            try:
                self.programs[mode] = self._traced(x)
            except UntraceableError as error:
                self.programs[mode] = None
                self._fallbacks.add(f"model: dual numbers ({error})")
        return self.programs[mode]

    def _traced(self, x: Any) -> Program:
        device = (x[0] if isinstance(x, tuple) else x).device
        program = self._of_one_course(device)
        # With tangents of zero, so that every rule is in force.
        still = {id(p): Full(p.new_zeros(1).expand(1, *p.shape)) for p in self.model.parameters()}
        with draws_again(device), buffers_kept(self.model), PrecisionsMet() as precisions:
            wanted = self.model(x)
        try:
            with draws_again(device), buffers_kept(self.model):
                found = program(Context(1, still), x)
        except Exception as error:  # whatever a rule makes of a user's arguments
            raise UntraceableError(f"its trace fails: {_in_short(error)}") from error
        if not _same(wanted, map_duals(lambda d: d.primal, found), precisions.loosest(CLOSE)):
            raise UntraceableError("its trace computes something else")
        program.fallbacks.clear()
        return program

    def _of_one_course(self, device: torch.device) -> Program:
        """A trace of a model that takes the same course at every call, as far as it can be told.

        What it draws, counts or writes while it is traced would be frozen: a trace holds one course.
        """
        traces = []
        with draws_again(device):
            for _ in range(2):
                with buffers_kept(self.model):
                    buffers, before = list(self.model.buffers()), self._state(device)
                    traces.append(self._trace())
                    moved = not all(map(operator.is_, buffers, self.model.buffers()))
                    if moved or self._state(device) != before:
                        raise UntraceableError("it draws random numbers or moves buffers by itself")
        if traces[0].course != traces[1].course:
            raise UntraceableError("it takes another course at each call")
        return traces[0]

    def _trace(self) -> Program:
        try:
            return Program(self.model)
        except Exception as error:  # whatever a user's forward does with a proxy
            raise UntraceableError(f"not traceable: {_in_short(error)}") from error

    def _state(self, device: torch.device) -> tuple[Any, ...]:
        """Of the global generators, and how often each buffer was written."""
        found: list[Any] = [random.getstate(), torch.get_rng_state().numpy().tobytes()]
        if device.type == "cuda" and torch.cuda.is_initialized():
            found.append(torch.cuda.get_rng_state(device).numpy().tobytes())
        return (*found, *(b._version for b in self.model.buffers()))

    def samples_meet(self, program: Program, x: Tensor) -> bool:
        """Whether noise on one sample moves the output of another, as through batch statistics."""

        def on_the_first(site: str, output: Tensor) -> Tensor:
            noise = torch.zeros_like(output).unsqueeze(0)
            noise[0, 0] = torch.linspace(0.5, 1.5, output[0].numel()).view_as(output[0])
            return noise

        if len(x) == 1:
            return True  # the same
        with torch.no_grad(), draws_again(x.device), buffers_kept(self.model):
            context = ActivityContext(1, on_the_first, {})
            output = program(context, x)
        if any(site.noise.shape[1] != len(x) for site in context.sites):
            return True  # a layer whose rows are not samples, as those of windows
        if not isinstance(output, Dual) or output.primal.dim() < 1 or len(output.primal) != len(x):
            return True
        return bool(output.tangents[0, 1:].any())


def _part(tangents: Mapping[int, Tangent], start: int, stop: int) -> Context:
    part = {key: t.part(start, stop) for key, t in tangents.items()}
    return Context(stop - start, part)


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _same(a: Any, b: Any, close: float) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape:
            return False
        off, size = (a - b).double().norm(), a.double().norm()
        return bool(off <= close * size) or not bool(a.isfinite().all())
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(_same(one, other, close) for one, other in zip(a, b, strict=True))
    return type(a) is type(b)
