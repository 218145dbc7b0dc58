"""Who is told what a run is doing: a display, a test, or nobody."""

from __future__ import annotations

from typing import Protocol

from fgbench.plan import Group


class Watcher(Protocol):
    """Is told what the run is doing; the command line shows it, a test records it."""

    def phase(self, group: Group, text: str, seconds: float) -> None:
        """A phase begins that should last about `seconds`."""

    def progress(self, share: float, text: str) -> None:
        """The phase is this far, from 0 to 1."""

    def note(self, text: str) -> None:
        """Something that the reader should know, once."""
