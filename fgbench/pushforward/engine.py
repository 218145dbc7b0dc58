"""The engine: the loss and its derivatives along k tangents, in one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.pushforward.activity import ActivityContext
from fgbench.pushforward.beyond import COMPILED, is_compiled, refuse_scripts, running
from fgbench.pushforward.context import Context, attributes_kept, buffers_kept, draws_again, state_kept
from fgbench.pushforward.course import Course, show
from fgbench.pushforward.dual import Dual, Rows
from fgbench.pushforward.flat import flat
from fgbench.pushforward.generators import is_generator, seedings, states
from fgbench.pushforward.program import Record, Slot
from fgbench.pushforward.samples import Layout, layout_of_rows, layouts, zeros_filled
from fgbench.pushforward.tangents import Tangent

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Any, Tensor], Tensor]

# Each program is for one shape of batch and one choice of what is perturbed (with layers=one, one layer).
MOST_PROGRAMS = 256
# In bytes of a program's code, about an MLP of depth 30. In a longer program Python's share of the time is
# small, and tracing it takes seconds.
LONGEST_FLAT = 3_200
DRAWS = "it draws random numbers by itself"  # why a course is not settled
FOLLOWED = "the model's Python runs in every step ({why}), which takes longer than straight-line code"


class UntraceableError(Exception):
    """The model's course of operations is not the same at every call; the message says why."""


class Pushforward:
    """Computes the loss of a model together with its derivatives along tangents of the parameters."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        refuse_scripts(model)
        self.model, self.loss = model, loss
        self._fallbacks: set[str] = {COMPILED} if is_compiled(model) else set()
        self._pushed = False
        self.programs: dict[Any, Callable[..., Any] | str] = {}
        self.settled: dict[Any, str] = {}  # by shape, why the course may change between calls; "" if not
        self.unlike: Counter[Any] = Counter()
        self.carrying: set[Any] = set()  # kinds of batch in whose passes Python may change its attributes

    @property
    def fallbacks(self) -> list[str]:
        """The functions that ran without a rule of their own so far, in words."""
        return sorted(self._fallbacks)

    @property
    def followed(self) -> list[str]:
        """In words, why passes so far run the model's own Python; empty where none does."""
        programs = (program for program in self.programs.values() if isinstance(program, str))
        return [FOLLOWED.format(why=why) for why in sorted({*self.settled.values(), *programs}) if why]

    @torch.no_grad()
    def __call__(
        self, batch: Batch, tangents: Mapping[nn.Parameter, Tangent], chunk: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The loss, [], and its derivative along each of k tangents, [k].

        Args:
            batch: input and target.
            tangents: k for each parameter that is perturbed.
            chunk: how many tangents to take at once; 0 for all. Each chunk computes the loss again, with
                the same units dropped; running statistics, and what the model holds in attributes, are
                updated only once.
        """
        by_id = {id(p): t for p, t in tangents.items()}
        count = next(iter(tangents.values())).count
        size = chunk or count
        if size >= count:
            return _along(count, self._run(Context(count, by_id), batch))
        found = []
        numpy = not self.settled or DRAWS in self.settled.values()  # where it may draw from that library
        for start in range(0, count, size):
            again = start + size < count
            attributes: AbstractContextManager[Any] = nullcontext()
            if again and (self.carrying or not self.settled):
                attributes = attributes_kept(self.model, where=lambda: bool(self.carrying))
            kept = buffers_kept(self.model, again)
            with draws_again(batch[0].device, again, numpy=numpy), attributes, kept:
                part = _part(by_id, start, min(start + size, count))
                value, along = _along(part.count, self._run(part, batch))
                found.append(along)
        return value, torch.cat(found)

    @torch.no_grad()
    def run(self, context: Context, batch: Batch) -> tuple[Tensor, Tensor]:
        """One pass: the loss [] and its derivatives by row, [k, rows], or [k, 1] for a loss without rows."""
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
        """The pass as straight-line calls of torch, for tangents that stay at one place in memory.

        Called with None and a batch of the same shapes, the code gives what calling this engine gives.
        None where the model's course is not settled, is so long that little time would be saved, or cannot
        be traced.
        """
        by_id = {id(p): t for p, t in tangents.items()}
        context = Context(next(iter(tangents.values())).count, by_id)
        program = self.programs.get(self._key(context, batch))
        if not callable(program) or len(program.__code__.co_code) > LONGEST_FLAT:
            return None
        with torch.no_grad(), draws_again(batch[0].device), state_kept(self.model):
            try:
                return flat(lambda *batch: _along(context.count, program(context, *batch)), *batch)
            except Exception:  # as where an operation looks at values to check them: the program remains
                return None

    def why_not_settled(self, context: Context, batch: Batch) -> str:
        """Why the model's course may change from call to call; empty where it is settled now."""
        key = self._key(context, batch)
        for _ in range(2):  # at the first call a model may set itself up, and take another course
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
        kind = self.model.training, x.shape, x.stride(), x.dtype, x.device, y.shape, y.dtype
        return kind, (noise, *context.tangents)

    def _followed(self, context: Context, batch: Batch, record: Record | None = None) -> Any:
        """The loss, with its tangents, by running the model's own Python."""
        inputs = batch
        if record is not None:
            inputs = (batch[0].detach(), batch[1].detach())  # the same memory, to be marked
            for value in inputs:
                record.slot(value)
        course = Course(context, self._fallbacks, record)
        with running(course):
            return course.hide(self.loss(self.model(inputs[0]), inputs[1]))

    def _settled(self, key: Any, context: Context, batch: Batch) -> Any:
        """The loss, with its tangents; keeps the course as a program if two runs took the same one."""
        kind, _ = key
        if len(self.programs) >= MOST_PROGRAMS or self.settled.get(kind):
            return self._followed(context, batch)
        if kind not in self.settled:
            first = self._first_look(context, batch)
        record = Record()
        value = self._followed(context, batch, record)
        if kind not in self.settled:
            if first.changed:  # once more, as the model may have set itself up
                first = self._first_look(context, batch)
            why = self._why_not(kind, first, record)
            if why is None:
                return value
            self.settled[kind] = why
            if first.writes() or (why and first.changed):
                self.carrying.add(kind)
        output = record.known(value)
        why = self.settled[kind] or record.refused
        if not why and not isinstance(output, Slot):
            why = "its loss does not depend on it"
        self.programs[key] = why or record.code(2, output)
        return value

    def _first_look(self, context: Context, batch: Batch) -> Record:
        """The record of a trial run, after which random numbers, buffers and attributes are as before."""
        record = Record()
        buffers, drawn = list(map(id, self.model.buffers())), states()
        attributes = attributes_kept(self.model)
        with draws_again(batch[0].device, numpy=True), attributes as record.changed, buffers_kept(self.model):
            with seedings() as seeded:
                self._followed(context.again(), batch, record)
            if seeded or states() != drawn or _own_generator(self.model):
                record.refuse(DRAWS)
            if buffers != list(map(id, self.model.buffers())):
                record.refuse("it replaces its buffers")
        return record

    def _why_not(self, kind: Any, first: Record, second: Record) -> str | None:
        """Why two runs do not prove the course to be fixed; empty if they do, None to try once more."""
        why = first.refused or second.refused or first.carried()
        if why or first.same_as(second):
            return why
        self.unlike[kind] += 1  # the first time, the model may have been setting itself up
        return None if self.unlike[kind] < 2 else "it takes another course at each call"

    @torch.no_grad()
    def push(self, context: Context, x: Any) -> Any:
        """The model's output, with tangents, for an input that may have some already.

        Args:
            context: holds the tangents of parameters.
            x: a tensor, a `Dual` with as many tangents as the context has, or a tuple of these.
        """
        kept = buffers_kept(self.model, not context.first, eager=True)
        watched, self._pushed = not self._pushed, True
        course = Course(context, self._fallbacks, watched=watched)
        with kept, running(course):
            return course.hide(self.model(show(x)))

    @torch.no_grad()
    def derivatives(self, context: Context, output: Any, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss [] of a model's output, and its derivatives, in the shapes that `run` gives."""
        course = Course(context, self._fallbacks)
        with running(course):
            value = course.hide(self.loss(show(output), target))
        return _derivatives(context, value)

    def layouts(self, x: Tensor) -> dict[int, Layout] | None:
        """Where samples are in each layer's output; None if a sample's output depends on other samples."""

        def run(x: Tensor) -> tuple[list[Tensor], Any]:
            outputs: list[Tensor] = []

            def remembered(site: int, output: Tensor) -> Tensor:
                outputs.append(output.clone())
                return torch.zeros_like(output).unsqueeze(0)

            with torch.no_grad(), draws_again(x.device), state_kept(self.model):
                output = self.push(ActivityContext(1, remembered, {}), x)
            return outputs, output

        with zeros_filled(self.model):
            return layouts(run, x)

    def rows(self, batch: Batch, layouts: Mapping[int, Layout]) -> Layout | None:
        """Where samples are in the loss's derivatives by row; None if a sample reaches the rows of others.

        None also if passes differ in their layers' operations, as where layers are left out at random: an
        operation's number does not tell its layout then.

        Args:
            batch: input and target, of two samples or more.
            layouts: where samples are in each layer's output.
        """
        device = batch[0].device
        generator, courses = torch.Generator(device).manual_seed(0), set()
        first: dict[int, torch.Size] = {}

        def run(some: Tensor) -> Tensor:
            shapes = []

            def noise(number: int, output: Tensor) -> Tensor:
                shapes.append(output.shape)
                if first.setdefault(number, output.shape) != output.shape:
                    return torch.zeros_like(output).unsqueeze(0)
                drawn = output.new_empty((1, *output.shape)).normal_(generator=generator)
                return drawn * layouts[number].spread(some.to(output.dtype).unsqueeze(0), output.shape)

            context = ActivityContext(1, noise, {}, layouts)
            with attributes_kept(self.model):
                by_row = _derivatives(context, self._followed(context, batch))[1]
            courses.add((*context.met, *shapes))
            return by_row

        with torch.no_grad(), draws_again(device), buffers_kept(self.model), zeros_filled(self.model):
            found = layout_of_rows(run, len(batch[0]), device)
        return found if len(courses) == 1 else None

    def met(self, x: Tensor, layouts: dict[int, Layout] | None) -> ActivityContext:
        """The context after a pass with zero noise; its `sites` can be perturbed, `free` are in no layer."""
        context = ActivityContext(1, lambda site, z: torch.zeros_like(z).unsqueeze(0), {}, layouts)
        with torch.no_grad(), draws_again(x.device), state_kept(self.model):
            self.push(context, x)
        return context


def _own_generator(model: nn.Module) -> bool:
    return any(is_generator(value) for module in model.modules() for value in vars(module).values())


def _along(count: int, value: Any) -> tuple[Tensor, Tensor]:
    """A loss [] and its derivatives [k]."""
    if isinstance(value, Rows):
        return value.value, value.along
    value = _scalar(value)
    if isinstance(value, Dual):
        return value.primal, value.tangents
    return value, value.new_zeros(count)


def _derivatives(context: Context, value: Any) -> tuple[Tensor, Tensor]:
    """A loss [] and what each row contributes to its derivatives, [k, rows]."""
    if isinstance(value, Rows):
        return value.value, value.by_row
    value = _scalar(value)
    if isinstance(value, Dual):
        return value.primal, value.tangents.unsqueeze(1)
    return value, value.new_zeros(context.count, 1)


def _scalar(value: Any) -> Any:
    """A loss of one entry, whatever its dimensions, as []."""
    if isinstance(value, Dual):
        return value if value.stack.dim() == 1 else Dual(value.stack.reshape(len(value.stack)))
    return value.reshape(()) if value.dim() else value


def _part(tangents: Mapping[int, Tangent], start: int, stop: int) -> Context:
    part = {key: t.part(start, stop) for key, t in tangents.items()}
    return Context(stop - start, part)


def by_samples(by_row: Tensor, samples: int, layout: Layout | None) -> Tensor:
    """Sum derivatives by row, [k, rows], to derivatives by sample, [k, samples].

    Args:
        by_row: the derivatives.
        samples: how many there are.
        layout: where samples are in the rows; None where rows belong to no sample, and stay as they are.
    """
    rows = by_row.shape[1]
    if layout is None or rows in (1, samples):
        return by_row
    return by_row.sum(1, keepdim=True) if rows % samples else layout.gathered(by_row, samples)
