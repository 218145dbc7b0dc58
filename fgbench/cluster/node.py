"""A task of a cluster on its node: it starts a worker for each order of a unit, and files the events."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from fgbench.measurement.lock import timing_lock
from fgbench.running.client import WORKER, Order, WorkerDiedError, lines_of
from fgbench.running.messages import Message, encode

PART = ".part-"


@dataclass(frozen=True)
class Died(Message):
    """A worker ended before it was done; nothing comes after it."""

    status: str
    detail: str


@dataclass(frozen=True)
class NodeTask:
    """One unit, as submitit hands it to its node.

    Attributes:
        file: the file that all events are written to at the end, either completely or not at all.
        orders: what to do, one after the other; when a worker dies, the orders after it are not carried out.
        device: the device that is locked meanwhile, so that nothing else is timed there; empty locks none.
        worker: the module that workers run.
        variables: environment variables with their values on the submitting machine; None if unset.
    """

    file: Path
    orders: tuple[Order, ...]
    device: str = ""
    worker: str = WORKER
    variables: dict[str, str | None] = field(default_factory=dict)

    def __call__(self) -> None:
        """Do the unit's work, and put the file of its events in place.

        Until then events are in a file beside it, of this task alone: another try may be under way.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit would wait until it is killed
        for name, value in self.variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        part = self.file.with_name(f"{self.file.name}{PART}{socket.gethostname()}-{os.getpid()}")
        with ExitStack() as stack:
            if self.device:
                stack.enter_context(timing_lock(self.device, print))
            file = stack.enter_context(part.open("w", encoding="utf-8"))
            for line in self._lines():
                file.write(line)
                file.flush()
            os.fsync(file.fileno())
        part.replace(self.file)

    def _lines(self) -> Iterator[str]:
        try:
            for order in self.orders:
                for line in lines_of(order, self.worker):
                    yield line
                    if json.loads(line).get("kind") == "Done":
                        break
        except WorkerDiedError as died:
            yield encode(Died(died.status, died.detail))
