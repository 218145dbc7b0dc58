"""Tie a worker to its runner: the worker ends when the runner does, for whatever reason."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # Linux's prctl.h


def tie_to_runner() -> int:
    """End this process, and what it started, as soon as its runner ends, by SIGKILL too.

    Standard input is the runner's pipe: its end says that the runner is gone, on any system and at any
    moment, and then the whole process group goes, compilers included. On Linux the kernel ends the
    worker as well, which also reaches one that hangs and cannot look at a pipe.

    Returns:
        A descriptor to read the request from; `watch` has it from then on. Standard input itself is
        empty afterwards: neither a model nor a process that it starts can take from the pipe.
    """
    if sys.platform == "linux":
        # The signal comes when the runner's thread that started the worker ends: its main thread. Had
        # it ended before this line, the pipe would say so.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    pipe, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return pipe


def watch(pipe: int) -> None:
    """Wait for the pipe's end in a thread of its own, and end this process then."""
    threading.Thread(target=_end_after, args=(pipe,), name="fgbench-lifeline", daemon=True).start()


def _end_after(pipe: int) -> None:
    with suppress(OSError):
        while os.read(pipe, 1024):
            pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
