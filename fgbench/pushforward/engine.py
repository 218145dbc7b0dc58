"""The engine: the loss and its derivatives along k tangents, in one forward pass."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.pushforward.activity import ActivityContext
from fgbench.pushforward.context import Context, buffers_kept, draws_again
from fgbench.pushforward.course import Course, as_trained, hide, show
from fgbench.pushforward.dual import Dual, Rows
from fgbench.pushforward.flat import flat
from fgbench.pushforward.program import Record, Slot
from fgbench.pushforward.samples import Layout, layouts
from fgbench.pushforward.tangents import Tangent

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Any, Tensor], Tensor]

MOST_PROGRAMS = 256  # each of one shape and one choice of what is perturbed: of layers=one, a layer each
# Bytes of a program's code, an MLP's of depth 30: in a longer one Python's share is small, and tracing it
# takes seconds.
LONGEST_FLAT = 3_200


class UntraceableError(Exception):
    """A model whose course is not the same at every call; the message says why."""


class Pushforward:
    """A model and a loss, ready to be pushed forward along tangents of its parameters."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self._fallbacks: set[str] = set()
        self.programs: dict[Any, Callable[..., Any] | str] = {}
        self.settled: dict[Any, str] = {}  # by shape, why no course is the same at every call; empty if it is
        self.unlike: Counter[Any] = Counter()

    @property
    def fallbacks(self) -> list[str]:
        """What ran without a rule of its own so far, in words."""
        return sorted(self._fallbacks)

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
        size = chunk or count
        if size >= count:
            return _along(count, self._run(Context(count, by_id), batch))
        found = []
        for start in range(0, count, size):
            again = start + size < count
            with draws_again(batch[0].device, again), buffers_kept(self.model, again):
                part = _part(by_id, start, min(start + size, count))
                value, along = _along(part.count, self._run(part, batch))
                found.append(along)
        return value, torch.cat(found)

    @torch.no_grad()
    def run(self, context: Context, batch: Batch) -> tuple[Tensor, Tensor]:
        """One pass: the loss [] and its derivatives, [k, rows] or [k, 1] where its rows cannot be told."""
        return _derivatives(context, self._run(context, batch))

    def _run(self, context: Context, batch: Batch) -> Any:
        """The loss, with its tangents."""
        key = self._key(context, batch)
        program = self.programs.get(key)
        if program is None:
            return self._settled(key, context, batch)
        if isinstance(program, str):
            return self._followed(context, batch)
        return program(context, *batch)

    def flat(self, batch: Batch, tangents: Mapping[nn.Parameter, Tangent]) -> Callable[..., Any] | None:
        """A pass over tangents that lie where they are at every step, as straight-line calls of torch.

        Called with None and a batch of such shapes it gives what this engine does. None where the
        model's course is not settled, or so long that little would be saved.
        """
        by_id = {id(p): t for p, t in tangents.items()}
        context = Context(next(iter(tangents.values())).count, by_id)
        program = self.programs.get(self._key(context, batch))
        if not callable(program) or len(program.__code__.co_code) > LONGEST_FLAT:
            return None
        with torch.no_grad(), draws_again(batch[0].device), buffers_kept(self.model):
            return flat(lambda *batch: _along(context.count, program(context, *batch)), *batch)

    def why_not_settled(self, context: Context, batch: Batch) -> str:
        """Why the model's course may change from call to call; empty where it is settled now."""
        key = self._key(context, batch)
        for _ in range(2):  # at the first call it may make itself ready
            if key not in self.programs and not self.settled.get(key[0]):
                with torch.no_grad(), draws_again(batch[0].device), buffers_kept(self.model):
                    self._settled(key, context, batch)
        program = self.programs.get(key, "")
        return self.settled.get(key[0]) or (program if isinstance(program, str) else "")

    def _key(self, context: Context, batch: Batch) -> Any:
        x, y = batch
        noise: Any = None
        if isinstance(context, ActivityContext):
            noise = tuple(None if own is None else (*own,) for own in (context.layouts, context.wanted))
        kind = self.model.training, x.shape, x.dtype, x.device, y.shape, y.dtype
        return kind, (noise, *context.tangents)

    def _followed(self, context: Context, batch: Batch, record: Record | None = None) -> Any:
        """The loss, with its tangents, by the model's own Python."""
        inputs = batch
        if record is not None:
            inputs = (batch[0].detach(), batch[1].detach())  # the same memory, to be marked
            for value in inputs:
                record.slot(value)
        with as_trained(), Course(context, self._fallbacks, record):
            return hide(self.loss(self.model(inputs[0]), inputs[1]))

    def _settled(self, key: Any, context: Context, batch: Batch) -> Any:
        """The loss; and from now on its course as a program, where two runs took the same."""
        kind, _ = key
        if len(self.programs) >= MOST_PROGRAMS or self.settled.get(kind):
            return self._followed(context, batch)
        if kind not in self.settled:
            first = self._first_look(context, batch)
        record = Record()
        value = self._followed(context, batch, record)
        if kind not in self.settled:
            why = self._why_not(kind, first, record)
            if why is None:
                return value
            self.settled[kind] = why
        output = record.known(value)
        why = self.settled[kind] or record.refused
        if not why and not isinstance(output, Slot):
            why = "its loss does not depend on it"
        self.programs[key] = why or record.code(2, output)
        return value

    def _first_look(self, context: Context, batch: Batch) -> Record:
        """A course that leaves nothing behind."""
        record = Record()
        buffers, python = list(map(id, self.model.buffers())), random.getstate()
        with draws_again(batch[0].device), buffers_kept(self.model):
            self._followed(context.again(), batch, record)
            if random.getstate() != python:
                record.refuse("it draws random numbers by itself")
        if buffers != list(map(id, self.model.buffers())):
            record.refuse("it replaces its buffers")
        return record

    def _why_not(self, kind: Any, first: Record, second: Record) -> str | None:
        """Why two courses do not show that all are alike; empty where they do, None for: ask again."""
        why = first.refused or second.refused
        if why or first.same_as(second):
            return why
        self.unlike[kind] += 1  # the first time it may have made itself ready
        return None if self.unlike[kind] < 2 else "it takes another course at each call"

    @torch.no_grad()
    def push(self, context: Context, x: Any) -> Any:
        """The model's output, with tangents, for an input that may have some already.

        Args:
            context: with those of parameters.
            x: a tensor, a `Dual` of as many tangents as the context has, or a tuple of such.
        """
        kept = buffers_kept(self.model, not context.first, eager=True)
        with kept, as_trained(), Course(context, self._fallbacks):
            return hide(self.model(show(x)))

    @torch.no_grad()
    def derivatives(self, context: Context, output: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of an output [], and its derivatives, of the shapes that `run` gives."""
        with as_trained(), Course(context, self._fallbacks):
            value = self.loss(show(output), target)
        return _derivatives(context, hide(value))

    def layouts(self, x: Tensor) -> dict[int, Layout] | None:
        """Where samples are in the output of each layer's operation; None where samples meet."""

        def run(x: Tensor) -> tuple[list[Tensor], Any]:
            outputs: list[Tensor] = []

            def remembered(site: int, output: Tensor) -> Tensor:
                outputs.append(output.clone())
                return torch.zeros_like(output).unsqueeze(0)

            with torch.no_grad(), draws_again(x.device), buffers_kept(self.model):
                output = self.push(ActivityContext(1, remembered, {}), x)
            return outputs, output

        return layouts(run, x)

    def met(self, x: Tensor, layouts: dict[int, Layout] | None) -> ActivityContext:
        """A pass with noise of zero: the operations that can be perturbed, and the other parameters."""
        context = ActivityContext(1, lambda site, z: torch.zeros_like(z).unsqueeze(0), {}, layouts)
        with torch.no_grad(), draws_again(x.device), buffers_kept(self.model):
            self.push(context, x)
        return context


def _along(count: int, value: Any) -> tuple[Tensor, Tensor]:
    """A loss [] and its derivatives [k]."""
    if isinstance(value, Rows):
        return value.value, value.along
    if isinstance(value, Dual):
        return value.primal, value.tangents
    return value, value.new_zeros(count)


def _derivatives(context: Context, value: Any) -> tuple[Tensor, Tensor]:
    """The same with what each row adds, [k, rows]."""
    if isinstance(value, Rows):
        return value.value, value.by_row
    if isinstance(value, Dual):
        return value.primal, value.tangents.unsqueeze(1)
    return value, value.new_zeros(context.count, 1)


def _part(tangents: Mapping[int, Tangent], start: int, stop: int) -> Context:
    part = {key: t.part(start, stop) for key, t in tangents.items()}
    return Context(stop - start, part)


def by_samples(by_row: Tensor, samples: int) -> Tensor:
    """Derivatives [k, samples] of those by row [k, rows], whose order is that of samples."""
    if by_row.shape[1] in (1, samples) or by_row.shape[1] % samples:
        return by_row
    return by_row.unflatten(1, (samples, -1)).sum(2)
