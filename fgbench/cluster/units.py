"""A group's units: what its phases would ask workers now, and rows from answers that came another way.

A phase is asked twice, by the code that a run on one machine goes through. A `Scout` keeps what it would
send to workers and stores nothing: those are its units. A `Collector` gives it the events that tasks left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from fgbench.cluster.answers import Answer, until_death, without
from fgbench.plan import Group
from fgbench.running.client import Order, events_of
from fgbench.running.group_run import SEARCH_SEED, GroupRun, Jobs, Unit
from fgbench.running.messages import Message
from fgbench.running.phase import Phase
from fgbench.running.phases import find, needs
from fgbench.running.task import Task
from fgbench.running.watcher import NotesAlone
from fgbench.store.csv_table import table_of_rows


@dataclass(frozen=True)
class Asked:
    """A unit that a phase asks a worker for.

    Attributes:
        unit: the unit.
        orders: what workers are to do, one after the other.
        seconds: about how long it should take.
        shares: whether it may run beside other jobs.
    """

    unit: Unit
    orders: tuple[Order, ...]
    seconds: float
    shares: bool


class NotYetError(Exception):
    """A phase wants a unit that has no answer yet; it is run again when there is one."""


class Scout(GroupRun):
    """Stands for a group while one of its phases is asked what it would send to workers."""

    goes_on_after_death: ClassVar[bool] = True
    derives: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.watcher = NotesAlone()
        self.left_out = set(self.left_out)
        self.seconds = 0.0
        self.orders: dict[Unit, list[Order]] = {}

    @classmethod
    def of(cls, run: GroupRun) -> Scout:
        """A stand-in for a group, which stays unchanged."""
        return cls(**{own.name: getattr(run, own.name) for own in dataclasses.fields(cls)})

    @contextmanager
    def jobs(
        self, phase: str, methods: list[str], seed: int = SEARCH_SEED, process: int | None = None
    ) -> Iterator[Jobs]:
        """The jobs as a real run would have them; nothing is stored."""
        self.unit = unit_of(self.group, phase, seed, process)
        with super().jobs(phase, methods, seed, process) as jobs:
            yield jobs

    def answers(self, task: Task, request: Any) -> Iterator[Message]:
        """Keep the request, and answer nothing."""
        self.orders.setdefault(self.unit, []).append(Order.of(task, request))
        return iter(())

    def begin(self, text: str, seconds: float) -> None:
        """Add up the expected seconds."""
        self.seconds += seconds

    def store(self, table: str, *rows: dict[str, Any]) -> None:
        """Nothing is stored."""

    def replace(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Nothing is replaced."""

    def drop_snapshot(self, snapshot: Path) -> None:
        """Nothing is deleted, as training goes on from the snapshot."""


def unit_of(group: Group, phase: str, seed: int, process: int | None) -> Unit:
    """The unit that jobs belong to."""
    index = seed if process is None and seed != SEARCH_SEED else process
    return Unit(group.name, phase, index)


def asked_by(phase: Phase, run: GroupRun) -> list[Asked]:
    """The units that a phase of a group asks for, as things stand."""
    scout = Scout.of(run)
    if run.methods:  # as long as one has not failed
        phase.run(scout)
    each = scout.seconds / max(1, len(scout.orders))
    return [Asked(unit, tuple(orders), each, phase.may_share) for unit, orders in scout.orders.items()]


@dataclass
class Collector(GroupRun):
    """A group whose workers were tasks of a cluster: their events become its rows.

    Attributes:
        answered: the answers of the units that are to be collected.
        unwritten: rows of the phase being collected, by table; they are written together at the phase's end.
    """

    answered: dict[Unit, Answer] = field(default_factory=dict)
    unwritten: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    goes_on_after_death: ClassVar[bool] = True

    @contextmanager
    def jobs(
        self, phase: str, methods: list[str], seed: int = SEARCH_SEED, process: int | None = None
    ) -> Iterator[Jobs]:
        """As on one machine.

        Raises:
            NotYetError: the unit has no answer.
        """
        answer = self.answered.get(unit_of(self.group, phase, seed, process))
        if answer is None:
            raise NotYetError
        with super().jobs(phase, methods, seed, process) as jobs, answer.lines() as self.lines:
            yield jobs

    def store(self, table: str, *rows: dict[str, Any]) -> None:
        """Keep the rows for `write`: many small writes are slow on a shared file system."""
        self.unwritten.setdefault(table, []).extend(rows)

    def write(self) -> None:
        """What is unwritten; jobs at last, since a job with its rows missing would count as done."""
        for table in sorted(self.unwritten, key="jobs".__eq__):
            if rows := self.unwritten[table]:
                super().store(table, *rows)
        self.unwritten.clear()

    def rows(self, table: str) -> pd.DataFrame:
        """The stored rows, and those that are waiting to be written."""
        waiting = [{"group": self.group.name, **row} for row in self.unwritten.get(table, ())]
        stored = super().rows(table)
        if not waiting:
            return stored
        own = table_of_rows(table, waiting)
        return own if stored.empty else pd.concat([stored, own], ignore_index=True)

    def replace(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Replace the group's rows, also those that are waiting to be written."""
        if super().rows(table).empty:
            self.unwritten[table] = rows
            return
        self.unwritten.pop(table, None)
        super().replace(table, rows)

    def answers(self, task: Task, request: Any) -> Iterator[Message]:
        """What the unit's next worker reported, for the methods that have not failed."""
        gone = set(self.plan.config.methods) - set(request.methods)
        for event in events_of(until_death(self.lines), task):
            if (kept := without(event, gone)) is not None:
                yield kept


class Walk:
    """One group on its way through the phases; a phase begins when those that it depends on have ended.

    Attributes:
        run: the group.
        done: the units of the group that are written as rows, including those of an earlier try.
        held: whether a unit has no answer, so that the phases after it have to wait for a resumed run.
    """

    def __init__(self, run: Collector, done: set[Unit]) -> None:
        self.run, self.done, self.held = run, done, False
        self.run.done = done
        self.order = TopologicalSorter(needs(run.plan.config))
        self.order.prepare()
        self.open: dict[str, set[Unit]] = {}

    @property
    def finished(self) -> bool:
        """Whether every phase has ended."""
        return not self.order.is_active()

    def begin(self) -> list[Asked]:
        """The units that phases ask for which can begin now."""
        asked: list[Asked] = []
        while not self.held and (ready := self.order.get_ready()):
            for name in ready:
                own = self._next(find(name))
                if not own:
                    self._collect(find(name))  # its choices have to be made again
                    self.order.done(name)
                asked += own
        return asked

    def take(self, unit: Unit, answer: Answer) -> tuple[bool, list[Asked]]:
        """A unit's answer; whether its phase's units became rows by it, and what is asked for next."""
        self.run.answered[unit] = answer
        self.held |= answer.file is None
        open_units = self.open[unit.phase]
        open_units.discard(unit)
        if open_units:
            return False, []
        phase = find(unit.phase)
        through = self._collect(phase)
        self.done |= {own for own in self.run.answered if own.phase == phase.name}
        self.run.answered = {own: a for own, a in self.run.answered.items() if own.phase != phase.name}
        if self.held:
            return True, []
        more = [] if through else self._next(phase)
        if not more:
            self.order.done(phase.name)
            more = self.begin()
        return True, more

    def _next(self, phase: Phase) -> list[Asked]:
        asked = [own for own in asked_by(phase, self.run) if own.unit not in self.done]
        self.open[phase.name] = {own.unit for own in asked}
        return asked

    def _collect(self, phase: Phase) -> bool:
        """Its rows; whether it has all that it wants, or asks for more units now."""
        try:
            phase.run(self.run)
        except NotYetError:
            return False
        finally:
            self.run.write()
        return True
