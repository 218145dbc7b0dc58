"""Reports to the runner, and failures as reports: a failing job is a row, not a crash."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fgbench.errors import in_one_line, says_out_of_memory
from fgbench.running.messages import Began, Failed, Report


class UnusableDeviceError(BaseException):
    """After a fault in a kernel, as a failed assert, all that this process asks of its GPU fails."""


@contextmanager
def blamed(report: Report, method: str) -> Iterator[None]:
    """If the worker ends inside, it ended of this method, and the others are done without it.

    Raises:
        UnusableDeviceError: what was raised inside has left a GPU on which nothing runs any more.
    """
    report(Began(method))
    try:
        yield
    except Exception as error:
        if not _device_answers():
            raise UnusableDeviceError(in_one_line(error)) from error
        report(Began(""))
        raise
    report(Began(""))


@contextmanager
def checking(report: Report, method: str) -> Iterator[None]:
    """Within `blamed`: if the worker ends inside, it ended of reverse mode, by which a step is checked."""
    report(Began(method, checking=True))
    yield
    report(Began(method))


def _device_answers() -> bool:
    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


@contextmanager
def failures_reported(report: Report, method: str) -> Iterator[None]:
    """Report an exception that is raised inside as the method's failure, and go on after the block."""
    try:
        yield
    except Exception as error:
        report_failure(report, method, error)


def report_failure(report: Report, method: str, error: Exception) -> None:
    """Report an exception as status `oom` or `error` with one line of detail."""
    detail = in_one_line(error)
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or says_out_of_memory(detail)
    report(Failed(method, "oom" if out_of_memory else "error", detail))
