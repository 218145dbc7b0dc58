"""Messages between the runner and its workers: dataclasses, which are written to and read from JSON here.

A message is one line, `{"kind": "Failed", "facts": {…}}`, with the name of its class and its fields. A line
that fits no known class is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError


@dataclass(frozen=True)
class Message:
    """A request to a worker, or an event that a worker reports. Its fields are checked on reading."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


Report = Callable[[Message], None]
"""A function that a worker gives its events to."""


class MalformedMessageError(Exception):
    """A line is no message, or not of an expected kind; the text says what is wrong."""


@dataclass(frozen=True)
class Built(Message):
    """Model and data have been built; the facts prove that the jobs of a group are matched.

    `node`, `cpu` and `gpu` name the machine; `gpu` is None for work on a CPU.
    """

    parameters: int
    weights_hash: str
    batches_hash: str
    node: str = ""
    cpu: str = ""
    gpu: str | None = None


@dataclass(frozen=True)
class Began(Message):
    """The worker is at a method: if it ends now, it ended of this method. Of none if it is empty.

    While `checking`, reverse mode runs to check the method's step, so that the worker ends of that.
    """

    method: str
    checking: bool = False


@dataclass(frozen=True)
class FirstCall(Message):
    """How long a method's first step took, compilation and autotuning included."""

    method: str
    seconds: float


@dataclass(frozen=True)
class Noted(Message):
    """What a reader should know about a method's step, such as operations that had no rule."""

    method: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Failed(Message):
    """A method failed: status `oom`, `error` or `diverged`, and one line of detail."""

    method: str
    status: str
    detail: str


@dataclass(frozen=True)
class Refused(Message):
    """The whole request cannot be done, for a reason that the user can do something about."""

    message: str


@dataclass(frozen=True)
class Done(Message):
    """The request was done; nothing follows this event."""


READY = "ready\n"
"""A worker's first line: it has imported what it needs, and waits for its request."""

EVERYWHERE: tuple[type[Message], ...] = (Built, Began, FirstCall, Noted, Failed, Refused, Done)
"""Events that any worker may report."""

M = TypeVar("M", bound=Message)


def to_json(message: Message) -> str:
    """The message's fields as a JSON object, in which NaN and infinities are kept."""
    return _adapter(type(message)).dump_json(message).decode()


def from_json(kind: type[M], text: str) -> M:
    """A message of a known kind from the JSON object of its fields.

    Raises:
        MalformedMessageError: a field is missing, unknown, or of another type.
    """
    try:
        return cast("M", _adapter(kind).validate_json(text, strict=True))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise MalformedMessageError(f"malformed {kind.__name__}: {where}: {first['msg']}") from error


def encode(event: Message) -> str:
    """The event as one line, with a newline at its end."""
    return f'{{"kind": "{type(event).__name__}", "facts": {to_json(event)}}}\n'


def is_of(line: str, kind: type[Message]) -> bool:
    """Whether a line that `encode` gave is an event of this kind; found without reading the whole line."""
    return line.startswith(f'{{"kind": "{kind.__name__}"')


def decode(line: str, kinds: Iterable[type[Message]]) -> Message:
    """The event in a line, which has to be of one of these kinds.

    Raises:
        MalformedMessageError: the line is no event, its kind is unknown, or a field does not fit its kind.
    """
    known = {kind.__name__: kind for kind in kinds}
    try:
        parts = json.loads(line)
        name, facts = parts["kind"], parts["facts"]
    except (ValueError, TypeError, KeyError) as error:
        raise MalformedMessageError(f"not an event: {line.strip()[:200]}") from error
    if name not in known:
        raise MalformedMessageError(f"unknown event {name}: expected one of {', '.join(sorted(known))}")
    return from_json(known[name], json.dumps(facts))


_adapters: dict[type[Message], TypeAdapter[Any]] = {}


def _adapter(kind: type[Message]) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]
