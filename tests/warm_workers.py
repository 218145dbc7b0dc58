"""Workers that start at once: each a fork of a process that has imported everything, with its own pipes.

What a worker does is as in a process started afresh, which most tests are about; the seconds that it takes
to import torch are not. Tests of the process itself, in `running/test_lifeline.py`, start real ones.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

PRELOADED = [
    "fgbench.running.worker",
    *(f"fgbench.running.phases.{name}" for name in ("cost", "memory", "modes", "time", "train", "tune")),
    "fgbench.api",
    "fgbench.methods.forward",
    "fgbench.methods.backprop",
    "torch.utils.flop_counter",
    "torch._dynamo",  # which the first optimiser imports
]
BRIEF = 0.002  # seconds of a reading of the machine's rates, in tests of anything else
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)


@dataclass
class Sent:
    """A descriptor on its way to the new process."""

    descriptor: int

    def __reduce__(self) -> Any:
        return _arrived, (DupFd(self.descriptor),)


def _arrived(copy: Any) -> int:
    return int(copy.detach())


class Fork:
    """A started worker, with what `subprocess.Popen` has of it."""

    def __init__(self, process: BaseProcess, stdin: IO[str], stdout: IO[str]) -> None:
        assert process.pid is not None
        self.process, self.pid, self.stdin, self.stdout = process, process.pid, stdin, stdout

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode or 0

    def kill(self) -> None:
        self.process.kill()


def start(command: list[str], *, stderr: IO[str], env: dict[str, str], **options: Any) -> Any:
    """As `subprocess.Popen` would; which does it for another module or in an environment of its own."""
    if env != dict(os.environ) or command[-1] != PRELOADED[0]:
        return subprocess.Popen(command, stderr=stderr, env=env, **options)
    (request, to_worker), (from_worker, events) = os.pipe(), os.pipe()
    pipes = (Sent(request), Sent(events), Sent(stderr.fileno()))
    process = FORKS.Process(target=_work, args=(pipes, env, str(Path.cwd())), daemon=True)
    process.start()
    os.close(request)
    os.close(events)
    return Fork(process, os.fdopen(to_worker, "w"), os.fdopen(from_worker))


def _work(pipes: tuple[int, int, int], env: dict[str, str], folder: str) -> None:
    from fgbench.measurement import rates
    from fgbench.running import worker

    rates.MEASURED_SECONDS = BRIEF
    gc.freeze()  # what was imported stays: no pass of the garbage collector has to go through it
    os.setsid()
    for standard, given in enumerate(pipes):
        os.dup2(given, standard)
        os.close(given)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(n, "r" if n == 0 else "w", closefd=False) for n in range(3)
    )
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    os.chdir(folder)
    try:
        worker.main()
    except BrokenPipeError:
        os._exit(1)
