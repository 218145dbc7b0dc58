"""The runner's end of a worker: start it, hand it the request, take its events, bury it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

KILLED = "killed (signal 9), as the kernel does when memory runs out"


class WorkerDiedError(Exception):
    """A worker ended before it was done; carries the status and detail that its jobs get."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def work(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Start a worker, hand it the request and give its events; it dies with this generator.

    Raises:
        WorkerDiedError: it ended before it was done.
    """
    with tempfile.TemporaryFile("w+") as errors:
        # A session of its own: Ctrl-C reaches the runner alone, which then ends the worker.
        process = subprocess.Popen(
            [sys.executable, "-m", "fgbench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it died at once: the end of its output says so
                process.stdin.write(json.dumps(request))
                process.stdin.close()
            for line in process.stdout:
                if not line.endswith("\n"):
                    break  # torn: it died while it wrote
                event = json.loads(line)
                if event["event"] == "done":
                    return
                yield event
            raise _death(process.wait(), errors)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _death(code: int, errors: IO[str]) -> WorkerDiedError:
    if code == -9:
        return WorkerDiedError("oom", KILLED)
    errors.seek(0)
    lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
    return WorkerDiedError("error", lines[-1] if lines else f"exit code {code}")
