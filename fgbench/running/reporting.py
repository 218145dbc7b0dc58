"""Reports to the runner, and failures as reports: a failing job is a row, not a crash."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fgbench.errors import in_one_line, says_out_of_memory
from fgbench.running.messages import Began, Failed, Report


@contextmanager
def blamed(report: Report, method: str) -> Iterator[None]:
    """If the worker ends inside, it ended of this method, and the others are done without it."""
    report(Began(method))
    try:
        yield
    finally:
        report(Began(""))


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
