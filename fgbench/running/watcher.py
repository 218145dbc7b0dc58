"""Watchers are told what a run is doing; the command line shows it, and tests record it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fgbench.plan import Group


class Watcher(Protocol):
    """Is told what the run is doing."""

    def phase(self, group: Group, text: str, seconds: float) -> None:
        """A phase begins that is expected to take about `seconds`."""

    def progress(self, share: float, text: str) -> None:
        """This share of the phase, from 0 to 1, is done."""

    def note(self, text: str) -> None:
        """Something that the reader should know; it is told once."""


@dataclass(frozen=True)
class NotesAlone:
    """A watcher that passes on notes, and nothing else: what it watches is no run that makes progress."""

    tell: Callable[[str], None] = lambda text: None

    def phase(self, group: Group, text: str, seconds: float) -> None:
        """Ignored, as no phase of a run begins."""

    def progress(self, share: float, text: str) -> None:
        """Ignored, as there is no progress to show."""

    def note(self, text: str) -> None:
        """Pass the note on."""
        self.tell(text)
