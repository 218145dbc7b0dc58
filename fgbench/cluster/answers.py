"""Read the file of events that a cluster's task left: its rows, where it ran, and how it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgbench.cluster.node import Died
from fgbench.running.client import WorkerDiedError
from fgbench.running.messages import Built, Message, decode

DIED = '{"kind": "Died"'  # the last line of a worker that died begins like this
BUILT = '{"kind": "Built"'


@dataclass(frozen=True)
class Answer:
    """What became of a unit: its file of events, or why it is lost and has none."""

    file: Path | None
    lost: str = ""

    @contextmanager
    def lines(self) -> Iterator[Iterator[str]]:
        """The lines of its events.

        Reading a lost unit raises `WorkerDiedError` with the status "interrupted", so that a resumed run does
        the unit again.
        """
        if self.file is None:
            yield self._none()
            return
        with self.file.open(encoding="utf-8") as lines:
            yield lines

    def _none(self) -> Iterator[str]:
        raise WorkerDiedError("interrupted", self.lost)
        yield


def until_death(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a unit's next worker; a unit's events may be those of several workers.

    Raises:
        WorkerDiedError: the worker ended before it was done.
    """
    for line in lines:
        if line.startswith(DIED):
            died = decode(line, (Died,))
            assert isinstance(died, Died)
            raise WorkerDiedError(died.status, died.detail)
        yield line
    raise WorkerDiedError("error", "its events end before it was done")


def ends_of(file: Path) -> tuple[Built | None, Died | None]:
    """Where a unit ran, and how its last worker died, if it did."""
    first = last = ""
    with file.open(encoding="utf-8") as events:
        for last in events:
            first = first or (last if last.startswith(BUILT) else "")
    built = decode(first, (Built,)) if first else None
    died = decode(last, (Died,)) if last.startswith(DIED) else None
    return built if isinstance(built, Built) else None, died if isinstance(died, Died) else None


def what_is_odd(built: Built, environment: Mapping[str, Any]) -> str:
    """Why figures from a node are not comparable with the run's other figures; empty where they are.

    Args:
        built: the worker's facts, which name the node's processor and GPU.
        environment: the environment that the run is for.
    """
    pairs = [(built.cpu, environment.get("cpu"))]
    if built.gpu is not None:
        pairs.append((built.gpu, environment["device_name"]))
    return "; ".join(
        f"it has {found}, but the run is for {name}: keep to one kind of node, as with --slurm constraint=…"
        for found, name in pairs
        if found and name and found != name
    )


def without(event: Message, methods: Collection[str]) -> Message | None:
    """An event without its facts about some methods; None where it is only about one of them."""
    if not methods:
        return event
    if getattr(event, "method", None) in methods:
        return None
    parts = {
        name: tuple(part for part in value if getattr(part, "method", None) not in methods)
        for name, value in vars(event).items()
        if isinstance(value, tuple)
    }
    return dataclasses.replace(event, **parts)
