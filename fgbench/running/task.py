"""A task: what a worker does in a fresh process when it gets a request."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from fgbench.running.messages import EVERYWHERE, Message, Report


class Task(ABC):
    """One kind of work for a worker. It has no state: everything that it needs is in the request.

    Attributes:
        request: the class of its requests.
        reports: the classes of the events that it reports, besides those that any worker may report.
    """

    request: ClassVar[type[Message]]
    reports: ClassVar[tuple[type[Message], ...]] = ()

    @abstractmethod
    def work(self, asked: Any, report: Report) -> None:
        """Do what was asked and report it. Runs in the worker.

        Raises:
            UsageError: it cannot be done, for a reason that the user can mend.
        """

    def compiles_afresh(self, asked: Any) -> bool:
        """Whether its process must not use code that another process compiled."""
        return False

    @property
    def events(self) -> tuple[type[Message], ...]:
        """The classes of all events that a worker may report for it."""
        return (*EVERYWHERE, *self.reports)

    @property
    def address(self) -> str:
        """Its module and class, by which the worker finds it."""
        return f"{type(self).__module__}:{type(self).__qualname__}"


def task_at(address: str) -> Task:
    """The task that an address names; imports its module."""
    module, _, name = address.partition(":")
    found: type[Task] = getattr(importlib.import_module(module), name)
    return found()
