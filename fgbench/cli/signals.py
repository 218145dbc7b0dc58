"""Signals that ask a run to stop: SIGTERM and SIGHUP end it as orderly as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import stat
from contextlib import suppress
from time import monotonic
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
ENDING_SECONDS = 5.0  # `timeout` sends its signal twice: the second must not cut off the end


class Stopped(KeyboardInterrupt):
    """A signal asked for the end; code that cleans up after Ctrl-C does so after it too."""


class OrderlyStop:
    """Meanwhile a signal that asks for the end raises `Stopped`; one that is ignored, by nohup, stays so.

    Only in a program's main thread.

    Attributes:
        number: of the signal that came; SIGINT, which Python itself makes an exception, where none did.
    """

    number: int = signal.SIGINT

    def __enter__(self) -> OrderlyStop:
        self.since = float("-inf")
        heard = (s for s in SIGNALS if signal.getsignal(s) is not signal.SIG_IGN)
        self.before = {number: signal.signal(number, self._stop) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if monotonic() - self.since < ENDING_SECONDS:
            return
        self.since, self.number = monotonic(), number
        if self.name == "SIGHUP":
            _leave_terminal()
        raise Stopped(f"by {self.name}")

    @property
    def name(self) -> str:
        """The name of the signal that asked for the end."""
        return signal.Signals(self.number).name


def _leave_terminal() -> None:
    """The terminal is gone: writing a line to it would fail, and with it the orderly end."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
