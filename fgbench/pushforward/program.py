"""Straight-line code for a model whose course of operations is the same at every call.

A record of a course says which operation ran, by which rule, on which values. It is turned into code if a
second run took the very same course, no value decided it, and nothing but torch drew random numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fgbench.pushforward.dual import Dual
from fgbench.pushforward.kinds import PLAIN

_RECORDS = count()
LITERALS = (int, bool, str, type(None))


@dataclass(frozen=True)
class Slot:
    """Stands for a value of the course; `number` says for which."""

    number: int


@dataclass
class Instruction:
    """One operation of a course.

    Attributes:
        how: the function, or the rule, that runs.
        ruled: whether it is a rule, which takes the context as its first argument.
        arguments, options: its positional and named arguments, with slots in place of values.
        results: a slot, or a tree of slots.
    """

    how: Callable[..., Any]
    ruled: bool
    arguments: Any
    options: Any
    results: Any


@dataclass
class Record:
    """The operations of one course, in order.

    Attributes:
        instructions: one for each operation.
        refused: why the course may differ at the next call; empty where nothing suggests that.
        slots: how many values have a slot so far.
        fixed: the slots of values that are the same for every batch of this shape, such as a causal mask.
        number: of this record; it tells the marks of different records apart.
        changed: by name, what the modules' plain attributes held before and after the course.
    """

    instructions: list[Instruction] = field(default_factory=list)
    refused: str = ""
    slots: int = 0
    fixed: set[int] = field(default_factory=set)
    number: int = field(default_factory=lambda: next(_RECORDS))
    changed: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def refuse(self, why: str) -> None:
        """Note why the course cannot be made a program; the first reason is kept."""
        self.refused = self.refused or why

    def slot(self, value: Any) -> Slot:
        """The slot of a value; a new one where it has none yet."""
        mark = getattr(value, "mark", None)
        if mark is None or mark[0] != self.number:
            mark = value.mark = (self.number, self.slots)
            self.slots += 1
        return Slot(mark[1])

    def known(self, leaf: Any) -> Any:
        """The slot of a value that this course has met; anything else as it is."""
        mark = getattr(leaf, "mark", None) if isinstance(leaf, Dual | Tensor) else None
        return Slot(mark[1]) if mark is not None and mark[0] == self.number else leaf

    def is_fixed(self, tree: Any) -> bool:
        """Whether all tensors in a tree are values of this course that are the same at every call."""
        tensors = [x for x in _leaves(_over(self.known, tree)) if isinstance(x, Slot | Dual | Tensor)]
        return all(isinstance(x, Slot) and x.number in self.fixed for x in tensors)

    def __call__(self, how: Any, ruled: bool, args: Any, kwargs: Any, out: Any) -> None:
        """Add an operation that has run."""
        arguments, options = _over(self.known, args), _over(self.known, kwargs)
        plain = how in PLAIN
        results = _over(lambda leaf: self.slot(leaf) if isinstance(leaf, Dual | Tensor) else None, out)
        made = {slot.number for slot in _slots(results)}
        if plain and self.is_fixed((args, kwargs)):
            self.fixed |= made
        elif not plain and (out is None or made & {slot.number for slot in _slots((arguments, options))}):
            # It wrote in place, perhaps into what others are views of.
            self.fixed.clear()
        if out is None or any(isinstance(leaf, Slot) for leaf in _leaves(results)):
            self.instructions.append(Instruction(how, ruled, arguments, options, results))

    def carried(self) -> str:
        """Why the next course may be another: an attribute by which this one may tell it something.

        Empty if there is none. A tensor tells it nothing that took another's place which was not read; and
        what writes into a tensor does so in a program too.
        """
        given = {id(leaf) for i in self.instructions for leaf in _leaves((i.arguments, i.options))}
        for name, (before, after) in self.changed.items():
            if before is after:
                continue
            held, tensors = _leaves(before), _over(_is_tensor, before)
            stored = all(_leaves(tensors)) and tensors == _over(_is_tensor, after)
            if not stored or any(id(getattr(leaf, "dual", leaf)) in given for leaf in held):
                return f"it changes its own attribute ({name!r})"
        return ""

    def writes(self) -> bool:
        """Whether the course writes into a tensor that a module holds in a plain attribute."""
        return any(before is after for before, after in self.changed.values())

    def same_as(self, other: Record) -> bool:
        """Whether both records hold the same operations on the same values."""
        mine, theirs = self.instructions, other.instructions
        return len(mine) == len(theirs) and all(map(_same_instruction, mine, theirs))

    def code(self, inputs: int, output: Any) -> Callable[..., Any]:
        """The course as a function of a context and `inputs` values; it returns the slots in `output`."""
        world: dict[str, Any] = {}
        reads = Counter(s.number for i in self.instructions for s in _slots((i.arguments, i.options)))
        reads.update(s.number for s in _slots(output))
        last: dict[int, int] = {}
        for place, instruction in enumerate(self.instructions):
            last |= dict.fromkeys((s.number for s in _slots(instruction.__dict__)), place)
        for slot in _slots(output):
            last.pop(slot.number, None)
        lines = [f"def course(context, {', '.join(f'v{i}' for i in range(inputs))}):"]
        for place, todo in enumerate(self.instructions):
            lines += _lines(todo, reads, world)
            dead = [f"v{n}" for n, at in last.items() if at == place]
            lines += [f"    del {', '.join(dead)}"] if dead else []
        lines.append(f"    return {_source(output, world)}")
        exec(compile("\n".join(lines), "<course>", "exec"), world)
        return world["course"]  # type: ignore[no-any-return]


def _lines(todo: Instruction, reads: Counter[int], world: dict[str, Any]) -> Iterator[str]:
    """The lines of Python for one instruction; `world` collects its constants."""
    given = ["context"] if todo.ruled else []
    given += [_source(leaf, world) for leaf in todo.arguments]
    given += [f"{key}={_source(leaf, world)}" for key, leaf in todo.options.items()]
    call = f"{_constant(todo.how, world)}({', '.join(given)})"
    if isinstance(todo.results, Slot):
        name = f"v{todo.results.number}"
        yield f"    {name} = {call}"
        if todo.ruled and reads[todo.results.number] != 1:
            yield f"    if {name}.__class__ is Dual: {name}.spare = False"
            world["Dual"] = Dual
        return
    yield f"    results = {call}"
    if todo.ruled:  # what is no rule gives plain tensors
        world["Dual"] = Dual
    yield from _unpacked("results", todo.results, todo.ruled)
    yield "    results = None"


def _unpacked(name: str, results: Any, ruled: bool) -> Iterator[str]:
    if isinstance(results, Slot):
        yield f"    v{results.number} = {name}"
        if not ruled:
            return
        # Of one operation, results may share memory, and each may be read more than once.
        yield f"    if v{results.number}.__class__ is Dual: v{results.number}.spare = False"
    elif isinstance(results, tuple | list):
        for place, part in enumerate(results):
            yield from _unpacked(f"{name}[{place}]", part, ruled)


def _source(leaf: Any, world: dict[str, Any]) -> str:
    """An argument as Python source; `world` collects constants that have no literal."""
    kind = type(leaf)
    if kind is Slot:
        return f"v{leaf.number}"
    if kind in LITERALS:
        return repr(leaf)
    if not any(isinstance(part, Slot) for part in _leaves(leaf)):
        return _constant(leaf, world)
    if kind is tuple:
        return f"({''.join(_source(part, world) + ', ' for part in leaf)})"
    if kind is list:
        return f"[{', '.join(_source(part, world) for part in leaf)}]"
    if kind is dict:
        return f"{{{', '.join(f'{key!r}: {_source(part, world)}' for key, part in leaf.items())}}}"
    raise TypeError(f"an argument of type {kind.__name__}")


def _constant(value: Any, world: dict[str, Any]) -> str:
    name = f"c{len(world)}"
    world[name] = value
    return name


def _over(change: Callable[[Any], Any], tree: Any) -> Any:
    """Apply `change` to every leaf of nested tuples, lists and dictionaries."""
    if isinstance(tree, tuple) and not isinstance(tree, torch.Size):
        return tuple(_over(change, leaf) for leaf in tree)
    if type(tree) is list:
        return [_over(change, leaf) for leaf in tree]
    if type(tree) is dict:
        return {key: _over(change, leaf) for key, leaf in tree.items()}
    return change(tree)


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def _leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    _over(found.append, tree)
    return found


def _slots(tree: Any) -> list[Slot]:
    return [leaf for leaf in _leaves(tree) if isinstance(leaf, Slot)]


def _same_instruction(a: Instruction, b: Instruction) -> bool:
    same = a.how is b.how or a.how == b.how
    return same and all(
        _alike(one, other)
        for one, other in (
            (a.arguments, b.arguments),
            (a.options, b.options),
            (a.results, b.results),
        )
    )


def _alike(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, Tensor):
        return a is b
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a is b or bool(a == b) or repr(a) == repr(b)
