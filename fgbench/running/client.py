"""The runner's side of a worker: start it, send it the request, read its events, and end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import IO, NamedTuple

from fgbench.errors import says_out_of_memory
from fgbench.running.messages import (
    EVERYWHERE,
    READY,
    Began,
    Done,
    Failed,
    MalformedMessageError,
    Message,
    decode,
    encode,
    is_of,
    to_json,
)
from fgbench.running.task import Task

WORKER = "fgbench.running.worker"
TRACEBACK = "Traceback (most recent call last):"
REVERSE = "reverse mode, by which its step is checked"
KILLED = "killed (signal 9), as the kernel does when memory runs out"


class WorkerDiedError(Exception):
    """A worker ended before it was done; `status` and `detail` are those that its jobs get."""

    def __init__(self, status: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


@dataclass(frozen=True)
class Order:
    """A request in the form in which a worker gets it, so that it can be passed on without knowing the task.

    Attributes:
        task: its address.
        request: in JSON.
        cold: whether the worker must not find code that another has compiled before.
    """

    task: str
    request: str
    cold: bool

    @classmethod
    def of(cls, task: Task, request: Message) -> Order:
        """The order for a task's request."""
        return cls(task.address, to_json(request), task.compiles_afresh(request))

    def without(self, method: str) -> Order | None:
        """The order for the other methods; None if there is none, or if, as the base, it is no method."""
        request = json.loads(self.request)
        rest = [name for name in request["methods"] if name != method]
        if not rest or method not in request["methods"]:
            return None
        return replace(self, request=json.dumps({**request, "methods": rest}))


class Started(NamedTuple):
    """A worker's process, and the file that its standard error goes to."""

    process: subprocess.Popen[str]
    errors: IO[str]


class Waiting:
    """Workers that were started side by side, have imported what all need, and wait for their orders.

    Nothing is timed while they start, as none has an order then; and while one works, the others do nothing.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once
        self.started: list[Started] = []

    def take(self) -> Started:
        """One of them; where none is left, others are started, and all of them are waited for."""
        if not self.started:
            for _ in range(self.at_once):
                self.started.append(_start(WORKER, {}))
            for worker in self.started:
                assert worker.process.stdout is not None
                worker.process.stdout.readline()  # READY; nothing if it died, as whoever takes it will see
        return self.started.pop(0)


_waiting: ContextVar[Waiting | None] = ContextVar("waiting", default=None)


@contextmanager
def started_ahead(at_once: int) -> Iterator[None]:
    """Within this block so many workers are started at once; those without work end with it."""
    waiting = Waiting(at_once)
    token = _waiting.set(waiting)
    try:
        yield
    finally:
        _waiting.reset(token)
        for worker in waiting.started:
            _end(worker)


def work(task: Task, request: Message) -> Iterator[Message]:
    """Start a worker, send it the request and give its events; it ends with this generator.

    It dies with this process too, whatever ends that: see `lifeline`.

    Raises:
        WorkerDiedError: it ended before it was done, or reported what is no event of its task.
    """
    # Closed here and not when it is forgotten, where Python would ignore a Ctrl-C.
    with closing(lines_of(Order.of(task, request))) as lines:
        yield from events_of(lines, task)


def events_of(lines: Iterable[str], task: Task) -> Iterator[Message]:
    """The events in a worker's lines, up to `Done`.

    Raises:
        WorkerDiedError: a line is no event of the task.
    """
    for line in lines:
        event = _event(line, task)
        if isinstance(event, Done):
            return
        yield event


def lines_of(order: Order, worker: str = WORKER) -> Generator[str, None, None]:
    """Start a worker, send it an order and give its whole lines; it ends with this generator.

    If it ends at a method, before it has found anything, the method has failed, and another worker does the
    others.

    Args:
        order: what it is to do.
        worker: the module that it runs.

    Raises:
        WorkerDiedError: its output ended.
    """
    while True:
        seen = Seen()
        try:
            with closing(_lines_of_one(order, worker)) as lines:
                for line in lines:
                    seen.note(line)
                    yield line
        except WorkerDiedError as died:
            rest = order.without(seen.method) if seen.method and not seen.found else None
            if rest is None:
                raise WorkerDiedError(died.status, f"{seen.place}{died}") from died
            what = f"its process ended in {REVERSE}" if seen.checking else "it ended its process"
            yield encode(Failed(seen.method, died.status, f"{what}: {died}"))
            order = rest


class Seen:
    """What a worker's lines tell: which method it is at or checks, and whether anything was found before."""

    def __init__(self) -> None:
        self.method, self.checking, self.found = "", False, False

    @property
    def place(self) -> str:
        """Where the worker is, for the words of its end."""
        at = self.method and f"at {self.method}"
        return f"{at}, in {REVERSE}: " if self.checking else at and f"{at}: "

    def note(self, line: str) -> None:
        """Take account of a line."""
        if not is_of(line, Began):
            self.found = self.found or not any(is_of(line, kind) for kind in EVERYWHERE)
            return
        with suppress(MalformedMessageError):  # whoever reads the line says so
            began = decode(line, (Began,))
            assert isinstance(began, Began)
            self.method, self.checking = began.method, began.checking


def _lines_of_one(order: Order, worker: str) -> Generator[str, None, None]:
    waiting = _waiting.get()
    if waiting and worker == WORKER and not order.cold:
        yield from _lines(order, waiting.take())
        return
    with _cache(order.cold) as variables:
        yield from _lines(order, _start(worker, variables))


def _start(worker: str, variables: dict[str, str]) -> Started:
    # `_end` closes it.
    errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
    # A session of its own: Ctrl-C reaches the runner alone, which then ends the worker.
    process = subprocess.Popen(
        [sys.executable, "-m", worker],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        encoding="utf-8",
        env={**os.environ, **variables},
        start_new_session=True,
    )
    return Started(process, errors)


def _lines(order: Order, worker: Started) -> Iterator[str]:
    """Send an order to a worker and give its whole lines; it ends with this generator."""
    process = worker.process
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with suppress(BrokenPipeError):  # it died at once, which is seen below
            process.stdin.write(f'{{"task": "{order.task}", "request": {order.request}}}\n')
            process.stdin.flush()  # and left open: its end is the runner's
        for line in process.stdout:
            if not line.endswith("\n"):
                break  # an incomplete line: it died while writing
            if line != READY:
                yield line
        raise _death(process.wait(), worker.errors)
    finally:
        _end(worker)


def _event(line: str, task: Task) -> Message:
    try:
        return decode(line, task.events)
    except MalformedMessageError as error:
        raise WorkerDiedError("error", str(error)) from error


@contextmanager
def _cache(cold: bool) -> Iterator[dict[str, str]]:
    """The environment of a worker; one that has to compile afresh gets empty caches."""
    if not cold:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="fgbench-cold-", ignore_cleanup_errors=True) as folder:
        yield {"TORCHINDUCTOR_CACHE_DIR": folder}


def _end(worker: Started) -> None:
    """Kill a worker and all that it started; it leads a process group of its own."""
    process = worker.process
    with suppress(OSError, AttributeError):  # nothing is left of it; a system without groups
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what it never read is still on its way to it
            pipe.close()  # type: ignore[union-attr]
    worker.errors.close()


def _death(code: int, errors: IO[str]) -> WorkerDiedError:
    if code == -9:
        return WorkerDiedError("oom", KILLED)
    errors.seek(0)
    words = _last_words(errors.read())
    # What a process that was killed wrote last may have nothing to do with its end.
    detail = ": ".join(filter(None, (_ending(code), words))) if code < 0 else words or _ending(code)
    return WorkerDiedError("oom" if says_out_of_memory(detail) else "error", detail)


def _ending(code: int) -> str:
    return f"killed (signal {-code}, {signal.strsignal(-code)})" if code < 0 else f"exit code {code}"


def _last_words(errors: str) -> str:
    """Of what a worker wrote on standard error, the first line of the exception that ended it, or the last.

    After its first line an error of CUDA's has others, which advise how to look for its cause.
    """
    _, traceback, last = errors.rpartition(TRACEBACK)
    lines = [line.rstrip() for line in last.splitlines() if line.strip()]
    if traceback:
        lines = [line for line in lines if not line.startswith(" ")][:1]
    return lines[-1].strip() if lines else ""
