"""The outbox of a cluster's runner: units that wait to be handed out, in waves of those that are alike."""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from fgbench.cluster.engines import ENDED, Engine, NoAnswerError, NoRoomError, Wave
from fgbench.cluster.ledger import Ledger
from fgbench.cluster.node import NodeTask
from fgbench.cluster.units import Asked
from fgbench.errors import UsageError
from fgbench.plan import Plan
from fgbench.running import client


@dataclass
class Open:
    """A unit that was handed out and has not ended.

    Attributes:
        asked: the unit, and what its workers are to do.
        job: the scheduler's number of its job.
        wave: the wave in which it was handed out.
        missing_since: when its task was first seen to have ended without leaving its file.
    """

    asked: Asked
    job: str
    wave: str
    missing_since: float | None = None


@dataclass
class Outbox:
    """Hands units to an engine.

    Attributes:
        waves: how many waves were handed out.
        room: how many tasks the engine takes in one submission, as far as is known: fewer once it had no
            room for so many, and one more with every task that ends.
        silent: whether the engine did not answer when tasks were last handed to it.
        unanswered: the waves that were handed to it then; their units go out again in other waves.
        without: by unit, the nodes that it must not run on again.
        odd: the nodes that are other machines than the run is for.
        wave_of: by unit, the wave in which it was handed out.
        left: by wave, how many of its units have not been written as rows yet.
    """

    engine: Engine
    plan: Plan
    ledger: Ledger
    waves: int = 0
    silent: bool = False
    unanswered: set[str] = field(default_factory=set)
    waiting: deque[Asked] = field(default_factory=deque)
    without: dict[str, set[str]] = field(default_factory=dict)
    odd: set[str] = field(default_factory=set)
    wave_of: dict[str, str] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.room = self.engine.at_once

    def ended(self) -> None:
        """Note that a task has ended, however it did: the scheduler has room for another."""
        self.room = min(self.room + 1, self.engine.at_once)

    def again(self, asked: Asked, node: str) -> None:
        """Queue a unit again, and keep it off the given node."""
        if node:
            self.without.setdefault(asked.unit.name, set()).add(node)
        self.waiting.append(asked)

    def submit(self, under_way: dict[str, Open]) -> None:
        """Hand out as many units as there is room for, or none while the engine does not answer.

        Args:
            under_way: by name, the units that are; those that are handed out are put there at once.

        Raises:
            UsageError: the scheduler takes none.
        """
        if self.silent and not self._answers():
            return
        while self.waiting:
            room, most = self.room, self.engine.open_at_most
            if most is not None:
                room = min(room, most - len(under_way))
            if room <= 0:
                break
            asked = self._alike(room)
            try:
                under_way.update(self._hand_out(asked))
            except NoRoomError as error:
                self._no_room(asked, len(under_way), error)
            except NoAnswerError:
                self.waiting.extendleft(reversed(asked))
                self.silent = True
                return
        self.silent = False

    def count(self, unit: str, wave: str) -> None:
        """Count a unit as part of a wave."""
        self.left[wave] += self.wave_of.get(unit) != wave
        self.wave_of[unit] = wave

    def tidy(self, unit: str) -> None:
        """Note that a unit became rows; after a wave's last one, submitit's files of the wave are deleted."""
        wave = self.wave_of.pop(unit, "")
        self.left[wave] -= 1
        if wave and not self.left[wave]:
            shutil.rmtree(self.ledger.jobs(wave), ignore_errors=True)

    def _answers(self) -> bool:
        """Whether the engine answers again; what it took without saying so is ended first."""
        found = self.engine.seen([])
        if found is None:
            return False
        taken = {job for job, seen in found.items() if seen.wave in self.unanswered and seen.state != ENDED}
        for array in {job.partition("_")[0] for job in taken}:
            self.engine.drop(array)
        return True

    def _alike(self, room: int) -> list[Asked]:
        """Take the next units that can go in one wave, as many as there is room for."""
        first = self._kind(self.waiting[0])
        chosen: list[Asked] = []
        others: deque[Asked] = deque()
        while self.waiting:
            own = self.waiting.popleft()
            if len(chosen) < room and self._kind(own) == first:
                chosen.append(own)
            else:
                others.append(own)
        self.waiting = others
        return chosen

    def _kind(self, asked: Asked) -> tuple[bool, frozenset[str]]:
        return asked.shares, frozenset(self.without.get(asked.unit.name, ()))

    def _hand_out(self, asked: list[Asked]) -> dict[str, Open]:
        """Submit one wave; it is put into the ledger before it is given to the scheduler."""
        self.waves += 1
        name = f"wave-{self.waves}"
        shares, without = self._kind(asked[0])
        seconds = max(own.seconds for own in asked)
        threads = max(group.threads for group in self.plan.groups)
        wave = Wave(name, self.ledger.jobs(name), seconds, shares, threads, tuple(sorted(without | self.odd)))
        tasks = [self._task(own) for own in asked]
        self.ledger.tell("submit", wave=name, units={own.unit.name: own.seconds for own in asked})
        try:
            jobs = self._submitted(tasks, wave)
        except (NoRoomError, NoAnswerError) as error:
            self.ledger.tell("refused", wave=name)
            if isinstance(error, NoAnswerError):
                self.unanswered.add(name)
            else:
                shutil.rmtree(wave.folder, ignore_errors=True)
            raise
        self.ledger.tell("submitted", wave=name, jobs=jobs)
        for own in asked:
            self.count(own.unit.name, name)
        return {own.unit.name: Open(own, job, name) for own, job in zip(asked, jobs, strict=True)}

    def _submitted(self, tasks: list[NodeTask], wave: Wave) -> list[str]:
        try:
            return self.engine.submit(tasks, wave)
        except NoAnswerError:
            raise
        except UsageError:
            if not wave.without:
                raise
            return self.engine.submit(
                tasks, replace(wave, without=())
            )  # there may be no node but the excluded ones

    def _no_room(self, asked: list[Asked], open_now: int, error: NoRoomError) -> None:
        """Put the units back, to try fewer of them now, or all later when something has ended."""
        self.waiting.extendleft(reversed(asked))
        self.room = len(asked) // 2
        if not (self.room or open_now):
            raise UsageError(f"the scheduler does not accept any task: {error}.") from error

    def _task(self, asked: Asked) -> NodeTask:
        local = self.engine.open_at_most is not None
        device = next(g.device for g in self.plan.groups if g.name == asked.unit.group)
        variables = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")} if local else {}
        lock = device if local or not asked.shares else ""
        return NodeTask(self.ledger.file(asked.unit.name), asked.orders, lock, client.WORKER, variables)
