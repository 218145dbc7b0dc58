"""The progress display of a run: one bar for the whole plan, with the current job and figure beside it."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from fgbench.plan import Group

REFRESHES_PER_SECOND = 2  # few, as drawing takes time from jobs on the same cores


class Display:
    """A watcher on standard error: a live bar on a terminal, and a line for each phase elsewhere."""

    def __init__(self, total_seconds: float) -> None:
        self.console = Console(stderr=True)
        # The text comes last and wraps, so that the time left is visible on a narrow terminal too.
        self.bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=8),
            TaskProgressColumn("{task.percentage:>3.0f} %", table_column=Column(no_wrap=True, min_width=5)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
            TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
            TextColumn("{task.description}", table_column=Column(ratio=1)),
            console=self.console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            expand=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=total_seconds)
        self.before = self.seconds = 0.0
        self.group = ""

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def phase(self, group: Group, text: str, seconds: float) -> None:
        """Begin the next phase: the bar moves to where the phase before ends."""
        self.before += self.seconds
        self.seconds, self.group = seconds, group.name
        self._show(0.0, text)
        if not self.console.is_terminal:
            print(f"{group.name}: {text}", file=sys.stderr, flush=True)

    def progress(self, share: float, text: str) -> None:
        """Show how far the current phase is."""
        self._show(share, text)

    def note(self, text: str) -> None:
        """Print a line that stays on the screen."""
        self.console.print(f"[yellow]note[/yellow] {text}", highlight=False)

    def _show(self, share: float, text: str) -> None:
        done = self.before + share * self.seconds
        total = max(self.bar.tasks[0].total or 0.0, self.before + self.seconds)
        self.bar.update(self.task, completed=done, total=total, description=f"{self.group} · {text}")
