"""The runner's end of a worker: start it, hand it the request, take its events, bury it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

KILLED = "killed (signal 9), as the kernel does when memory runs out"


class WorkerDiedError(Exception):
    """A worker ended before it was done; carries the status and detail that its jobs get."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def work(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Start a worker, hand it the request and give its events; it dies with this generator.

    It dies with this process too, whatever ends that: see `lifeline`.

    Raises:
        WorkerDiedError: it ended before it was done.
    """
    with tempfile.TemporaryFile("w+") as errors, _cache(request) as variables:
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
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()  # and left open: its end is the runner's
            for line in process.stdout:
                if not line.endswith("\n"):
                    break  # torn: it died while it wrote
                event = json.loads(line)
                if event["event"] == "done":
                    return
                yield event
            raise _death(process.wait(), errors)
        finally:
            _end(process)


@contextmanager
def _cache(request: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The first process of a timing compiles as on a machine that never did."""
    if request.get("process") != 0:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="fgbench-cold-", ignore_cleanup_errors=True) as cold:
        yield {"TORCHINDUCTOR_CACHE_DIR": cold}


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
