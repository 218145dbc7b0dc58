"""Snapshots of a training worker: the state of all its jobs between two turns, and their reports."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from fgbench.errors import in_one_line
from fgbench.running.messages import Message, Report, decode, encode
from fgbench.training.loop import Trainee

SECONDS_BETWEEN = 60.0


@dataclass(frozen=True)
class Unreadable(Message):
    """A state was stored and cannot be read, as one that is torn: training begins anew."""

    detail: str


@dataclass
class Snapshot:
    """A file with the latest state of trainees that take turns.

    Attributes:
        path: the path of the file; None keeps nothing.
        kinds: the classes of the events that are remembered.
        seconds: the shortest time between two saved states.
        told: every event so far, in order, each as a line; a worker that continues reports them again.
    """

    path: Path | None
    kinds: tuple[type[Message], ...] = ()
    seconds: float = SECONDS_BETWEEN
    told: list[str] = field(default_factory=list)
    saved_at: float = field(default_factory=monotonic)

    def telling(self, report: Report) -> Report:
        """A report that also remembers the events, for the snapshot."""

        def tell(event: Message) -> None:
            self.told.append(encode(event))
            report(event)

        return tell

    def restore(
        self, trainees: Mapping[str, Trainee], rng: random.Random, report: Report
    ) -> list[str] | None:
        """Set trainees and generator to the stored state, and report the stored events again.

        Returns:
            The names of those that go on; None where nothing was stored that can be read.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            state = torch.load(self.path, weights_only=True)
        except (MemoryError, torch.OutOfMemoryError):  # the file is good, and stays for another try
            raise
        except Exception as error:  # whatever unpickling raises; the next state replaces the file
            report(Unreadable(in_one_line(error)))
            return None
        rng.setstate(state["rng"])
        going_on = [name for name in state["trainees"] if name in trainees]  # others have failed since then
        for name in going_on:
            trainees[name].restore(state["trainees"][name])
        for line in state["told"]:
            event = decode(line, self.kinds)
            if getattr(event, "method", None) in trainees:
                self.telling(report)(event)
        return going_on

    def keep(self, trainees: Mapping[str, Trainee], alive: Sequence[str], rng: random.Random) -> None:
        """Store the state, if the last snapshot is old enough."""
        if self.path is None or monotonic() - self.saved_at < self.seconds:
            return
        state = {
            "rng": rng.getstate(),
            "told": self.told,
            "trainees": {name: trainees[name].state() for name in alive},
        }
        store_if_possible(state, self.path)
        self.saved_at = monotonic()


def store_if_possible(state: Mapping[str, Any], path: Path) -> None:
    """Put a file of tensors in place, whole or not at all; a full disk costs the file, not the training."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError, RuntimeError):  # torch.save raises either where the disk is full
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(state, beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)  # a torn one would keep the disk full
