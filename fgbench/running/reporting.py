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
        device_must_answer(error)
        report(Began(""))
        raise
    device_must_answer()  # also to what it has queued
    report(Began(""))


@contextmanager
def checking(report: Report, method: str) -> Iterator[None]:
    """Within `blamed`: if the worker ends inside, it ended of reverse mode, by which a step is checked."""
    report(Began(method, checking=True))
    yield
    report(Began(method))


def device_must_answer(error: Exception | None = None, method: str = "") -> None:
    """Do nothing, unless a GPU answers no more.

    Args:
        error: what was raised before this; without one, the device's own words are told.
        method: of which it was, where the runner cannot tell.

    Raises:
        UnusableDeviceError: nothing runs on the GPU any more.
    """
    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError as fault:
        told = in_one_line(error or fault)
        raise UnusableDeviceError(f"{method}: {told}" if method else told) from fault


@contextmanager
def failures_reported(report: Report, method: str) -> Iterator[None]:
    """Report an exception that is raised inside as the method's failure, and go on after the block."""
    try:
        yield
    except Exception as error:
        report_failure(report, method, error)


def report_failure(report: Report, method: str, error: Exception) -> None:
    """Report an exception as status `oom` or `error` with one line of detail.

    Raises:
        UnusableDeviceError: it has left a GPU on which nothing runs any more, so that others cannot go on.
    """
    detail = in_one_line(error)
    out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or says_out_of_memory(detail)
    report(Failed(method, "oom" if out_of_memory else "error", detail))
    device_must_answer(error, method)
