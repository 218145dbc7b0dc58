"""The runner of a cluster: hands out the units of all groups, and alone turns their answers into rows."""

from __future__ import annotations

import os
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

from fgbench.cluster.answers import Answer, ends_of, what_is_odd
from fgbench.cluster.engines import ENDED, RUNNING, Engine, NoRoomError, Seen, Wave, why_it_failed
from fgbench.cluster.ledger import AGAIN, CANCELLED, DONE, FAILED, OPEN, Ledger
from fgbench.cluster.node import PART, NodeTask
from fgbench.cluster.units import Asked, Collector, Quiet, Walk
from fgbench.errors import UsageError
from fgbench.plan import Plan
from fgbench.running.client import WORKER
from fgbench.running.phases import in_order
from fgbench.running.recovery import recover
from fgbench.running.watcher import Watcher
from fgbench.store.run_folder import RunFolder, environment_of

PAUSE = 1.0  # seconds between two looks at the folder
TRIES = 2
LOOKED_AT = 4096  # bytes at either end of a unit's events: what it ran on, and how it ended


def units_of(plan: Plan) -> dict[str, tuple[int, float]]:
    """By phase, how many units each group has and about how many seconds one takes; for `run.json`."""
    config = plan.config
    counts = {phase.name: (phase.units(config), phase.seconds(config)) for phase in in_order(config)}
    return {name: (count, seconds / count) for name, (count, seconds) in counts.items()}


def run_on(
    engine: Engine, plan: Plan, folder: RunFolder, contracts: Mapping[str, str], watcher: Watcher
) -> None:
    """Run every group of a plan as tasks of an engine, into a folder that their nodes share.

    What an earlier try finished is not done again, and what it handed out and is under way still is waited
    for. On KeyboardInterrupt tasks go on; whoever resumes the run finds what they left.

    Raises:
        UsageError: another fgbench writes to the folder, or the scheduler takes no task.
        ResultsError: it cannot be written to, or what it holds is damaged.
    """
    with folder.held():
        folder.begin()
        sweep = Sweep(engine, plan, folder, watcher)
        status = "error"
        try:
            sweep.begin(contracts)
            sweep.go()
            status = "done" if sweep.finished else "interrupted"
            if not sweep.finished:
                watcher.note(f"not all was measured: go on with fgbench run --resume {folder.path}")
        except KeyboardInterrupt:
            status = "interrupted"
            if sweep.open and not sweep.ledger.stop.exists():
                watcher.note(
                    f"{len(sweep.open)} tasks go on without this process, and --resume finds what they "
                    f"leave; to stop them: fgbench cancel {folder.path}"
                )
            raise
        finally:
            folder.finish(status)


@dataclass
class Open:
    """A unit that is under way."""

    asked: Asked
    job: str
    wave: str
    missing_since: float | None = None


@dataclass
class Sweep:
    """All groups of a plan, and their units that wait, are under way, or have failed once.

    Attributes:
        failures: of a unit, why each of its tries failed.
        without: nodes that a unit must not run on again.
        odd: nodes that are no such machines as the run is for.
        left: by wave, how many of its units are no rows yet.
    """

    engine: Engine
    plan: Plan
    folder: RunFolder
    watcher: Watcher
    walks: dict[str, Walk] = field(default_factory=dict)
    waiting: deque[Asked] = field(default_factory=deque)
    open: dict[str, Open] = field(default_factory=dict)
    came: deque[tuple[Asked, Answer]] = field(default_factory=deque)
    failures: dict[str, list[str]] = field(default_factory=dict)
    without: dict[str, set[str]] = field(default_factory=dict)
    odd: set[str] = field(default_factory=set)
    left: Counter[str] = field(default_factory=Counter)
    wave_of: dict[str, str] = field(default_factory=dict)
    asked_at: float = float("-inf")
    full: bool = False
    worker: str = WORKER

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.folder.path.absolute())
        self.seen: dict[str, Seen] = {}
        facts = self.folder.facts()
        self.environment = {g["name"]: environment_of(facts, g) for g in facts["groups"]}

    @property
    def finished(self) -> bool:
        """Whether every group is through."""
        return all(walk.finished for walk in self.walks.values())

    def begin(self, contracts: Mapping[str, str]) -> None:
        """Take up what is known, and ask every group for its first units."""
        by_group: dict[str, set[Any]] = {}
        for unit in recover(self.folder):
            by_group.setdefault(unit.group, set()).add(unit)
        self.standing = self.ledger.begin()
        self._find_unanswered()
        self.waves = self.standing.waves
        for group in self.plan.groups:
            run = Collector(self.plan, group, contracts[group.name], self.folder, Quiet(self.watcher))
            self.walks[group.name] = Walk(run, by_group.get(group.name, set()))
            self._take(self.walks[group.name].begin())

    def go(self) -> None:
        """Until nothing waits and nothing is under way."""
        while self.waiting or self.open or self.came:
            if self.ledger.stop.exists():
                raise KeyboardInterrupt("by fgbench cancel")
            self._submit()
            self._look()
            self._collect()
            if self.open:
                self._show()
                sleep(min(PAUSE, self.engine.seconds_between))

    # ---- handing out

    def _find_unanswered(self) -> None:
        """A runner that was killed while it submitted did not learn the jobs: the scheduler knows them."""
        if not self.standing.unanswered:
            return
        self.seen = self.engine.seen([]) or {}
        for wave, units in list(self.standing.unanswered.items()):
            jobs = sorted((job for job, seen in self.seen.items() if seen.wave == wave), key=_place)
            if len(jobs) == len(units):
                self.ledger.tell("submitted", wave=wave, jobs=jobs)
        self.standing = self.ledger.standing()

    def _take(self, asked: Iterable[Asked]) -> None:
        """Units that are asked for: answered already, under way, or to be handed out."""
        for own in asked:
            name = own.unit.name
            record = self.standing.units.pop(name, None)
            if record and record.wave:
                self._count(name, record.wave)
            if self.ledger.file(name).exists():
                self._ended(own, "")
            elif record and record.state == OPEN:
                self.open[name] = Open(own, record.job, record.wave)
            else:
                self.waiting.append(own)

    def _submit(self) -> None:
        while self.waiting and not self.full:
            room = self.engine.at_once
            if self.engine.open_at_most is not None:
                room = min(room, self.engine.open_at_most - len(self.open))
            if room <= 0:
                return
            self._submit_some(self._alike(room))

    def _alike(self, room: int) -> list[Asked]:
        """As many as there is room for that can go in one wave, in order; they wait no more."""
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

    def _submit_some(self, asked: list[Asked]) -> None:
        self.waves += 1
        name = f"wave-{self.waves}"
        shares, without = self._kind(asked[0])
        seconds = max(own.seconds for own in asked)
        threads = max(group.threads for group in self.plan.groups)
        away = tuple(sorted(without | self.odd))
        wave = Wave(name, self.ledger.jobs(name), seconds, shares, threads, away)
        tasks = [self._task(own) for own in asked]
        self.ledger.tell("submit", wave=name, units={own.unit.name: own.seconds for own in asked})
        try:
            try:
                jobs = self.engine.submit(tasks, wave)
            except UsageError:  # there may be no other nodes
                if not without:
                    raise
                jobs = self.engine.submit(tasks, Wave(name, wave.folder, seconds, shares, threads))
        except NoRoomError as error:
            self.ledger.tell("refused", wave=name)
            self._no_room(asked, error)
            return
        self.ledger.tell("submitted", wave=name, jobs=jobs)
        for own, job in zip(asked, jobs, strict=True):
            self.open[own.unit.name] = Open(own, job, name)
            self._count(own.unit.name, name)

    def _no_room(self, asked: list[Asked], error: NoRoomError) -> None:
        """Fewer, or later."""
        self.waiting.extendleft(reversed(asked))
        if len(asked) > 1:
            self.engine.at_once = len(asked) // 2
        elif self.open:
            self.full = True
        else:
            raise UsageError(f"the scheduler takes no task: {error}.") from error

    def _task(self, asked: Asked) -> NodeTask:
        local = self.engine.open_at_most is not None
        device = next(g.device for g in self.plan.groups if g.name == asked.unit.group)
        variables = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")} if local else {}
        lock = device if local or not asked.shares else ""
        return NodeTask(self.ledger.file(asked.unit.name), asked.orders, lock, self.worker, variables)

    # ---- answers

    def _look(self) -> None:
        """What came, and what will not come any more."""
        there = {file.stem for file in self.ledger.units.iterdir() if file.suffix == ".jsonl"}
        for name in [name for name in self.open if name in there]:
            own = self.open.pop(name)
            self._ended(own.asked, own.job)
        if self.open and monotonic() - self.asked_at >= self.engine.seconds_between:
            found = self.engine.seen([own.job for own in self.open.values()])
            self.asked_at = monotonic()
            if found is not None:  # otherwise the scheduler is down, and tasks go on
                self.seen = found
                for name, own in list(self.open.items()):
                    self._look_at(name, own)

    def _look_at(self, name: str, own: Open) -> None:
        seen = self.seen.get(own.job, Seen(ENDED))
        if seen.state != ENDED:
            own.missing_since = None
            return
        own.missing_since = own.missing_since or monotonic()
        patient = seen.word in ("", "COMPLETED", "ended")
        if (patient and monotonic() - own.missing_since < self.engine.patience) or self.ledger.file(
            name
        ).exists():
            return
        del self.open[name]
        said = why_it_failed(self.ledger.jobs(own.wave), own.job)
        why = ": ".join(filter(None, (seen.word or "Slurm knows nothing of it any more", said)))
        if seen.cancelled:
            self._give_up(own.asked, CANCELLED, "its task was cancelled")
        else:
            self._failed(own.asked, why, seen.node)

    def _ended(self, asked: Asked, job: str) -> None:
        """A unit whose events are there: whole, but perhaps of another machine, or of a worker that died."""
        file = self.ledger.file(asked.unit.name)
        built, died = ends_of(file)
        node = built.node if built else ""
        if built and (odd := what_is_odd(built, self.environment[asked.unit.group])):
            self.odd.add(node)
            file.unlink()
            self._failed(asked, odd, node)
        elif died and len(self.failures.get(asked.unit.name, ())) + 1 < TRIES:
            file.unlink()
            self._failed(asked, died.detail, node)
        else:
            self.came.append((asked, Answer(file)))

    def _failed(self, asked: Asked, why: str, node: str) -> None:
        """Once more, elsewhere; or not at all."""
        name = asked.unit.name
        where = f"on {node}: {why}" if node else why
        failures = self.failures.setdefault(name, [])
        failures.append(where)
        if len(failures) < TRIES:
            self.watcher.note(f"{name} failed {where}; it is tried once more, elsewhere.")
            self.ledger.tell("ended", units=[name], state=AGAIN, why=where)
            if node:
                self.without.setdefault(name, set()).add(node)
            self.waiting.append(asked)
            return
        self._give_up(asked, FAILED, f"it failed {TRIES} times, {'; then '.join(failures)}")

    def _give_up(self, asked: Asked, state: str, why: str) -> None:
        self.ledger.tell("ended", units=[asked.unit.name], state=state, why=why)
        self.came.append((asked, Answer(None, why)))

    def _collect(self) -> None:
        """Rows of every phase of a group whose units have all come; then its next units are asked for."""
        while self.came:
            asked, answer = self.came.popleft()
            self.full = False
            walk = self.walks[asked.unit.group]
            collected, more = walk.take(asked.unit, answer)
            if collected:
                self._tidy(walk, asked)
            self._take(more)

    def _tidy(self, walk: Walk, asked: Asked) -> None:
        """What became rows is needed no more, nor is what submitit kept of it."""
        phase, group = asked.unit.phase, asked.unit.group
        self.watcher.phase(walk.run.group, f"{phase} is measured", asked.seconds)
        names = [u.name for u in walk.done if u.phase == phase and self.ledger.file(u.name).exists()]
        self.ledger.tell("ended", units=names, state=DONE)
        for name in names:
            self.ledger.file(name).unlink()
            self.failures.pop(name, None)
            wave = self.wave_of.pop(name, "")
            self.left[wave] -= 1
            if not self.left[wave]:
                shutil.rmtree(self.ledger.jobs(wave), ignore_errors=True)
        for torn in self.ledger.units.glob(f"{group}.{phase}*{PART}*"):
            with suppress(OSError):
                torn.unlink()

    def _count(self, unit: str, wave: str) -> None:
        self.left[wave] += self.wave_of.get(unit) != wave
        self.wave_of[unit] = wave

    def _show(self) -> None:
        running = sum(self.seen.get(own.job, Seen("")).state == RUNNING for own in self.open.values())
        queued = len(self.open) - running + len(self.waiting)
        self.watcher.progress(0.0, f"{running} tasks are running, {queued} are waiting")


def _place(job: str) -> tuple[int, ...]:
    """A job's place in its array."""
    return tuple(int(part) for part in job.split("_") if part.isdigit())
