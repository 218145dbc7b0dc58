"""The runner's end of a worker: start it, hand it the request, take its events, bury it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from fgbench.running.messages import Done, MalformedMessageError, Message, decode, to_json
from fgbench.running.task import Task

KILLED = "killed (signal 9), as the kernel does when memory runs out"


class WorkerDiedError(Exception):
    """A worker ended before it was done; carries the status and detail that its jobs get."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def work(task: Task, request: Message) -> Iterator[Message]:
    """Start a worker, hand it the request and give its events; it dies with this generator.

    It dies with this process too, whatever ends that: see `lifeline`.

    Raises:
        WorkerDiedError: it ended before it was done, or reported what is no event of its task.
    """
    cold = task.compiles_afresh(request)
    with tempfile.TemporaryFile("w+") as errors, _cache(cold) as variables:
        # A session of its own: Ctrl-C reaches the runner alone, which then ends the worker.
        process = subprocess.Popen(
            [sys.executable, "-m", "fgbench.running.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **variables},
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it died at once: the end of its output says so
                process.stdin.write(f'{{"task": "{task.address}", "request": {to_json(request)}}}\n')
                process.stdin.flush()  # and left open: its end is the runner's
            for line in process.stdout:
                if not line.endswith("\n"):
                    break  # torn: it died while it wrote
                event = _event(line, task)
                if isinstance(event, Done):
                    return
                yield event
            raise _death(process.wait(), errors)
        finally:
            _end(process)


def _event(line: str, task: Task) -> Message:
    try:
        return decode(line, task.events)
    except MalformedMessageError as error:
        raise WorkerDiedError("error", str(error)) from error


@contextmanager
def _cache(cold: bool) -> Iterator[dict[str, str]]:
    """A process that is to compile afresh does so as on a machine that never compiled."""
    if not cold:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="fgbench-cold-", ignore_cleanup_errors=True) as folder:
        yield {"TORCHINDUCTOR_CACHE_DIR": folder}


def _end(process: subprocess.Popen[str]) -> None:
    """Kill it with all that it started: it leads a process group of its own."""
    with suppress(OSError, AttributeError):  # nothing is left of it; a system without groups
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what it never read is still on its way to it
            pipe.close()  # type: ignore[union-attr]


def _death(code: int, errors: IO[str]) -> WorkerDiedError:
    if code == -9:
        return WorkerDiedError("oom", KILLED)
    errors.seek(0)
    lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
    return WorkerDiedError("error", lines[-1] if lines else f"exit code {code}")
