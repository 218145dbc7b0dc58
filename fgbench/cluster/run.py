"""The runner of a cluster: it hands out the units of all groups, and turns their answers into rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import monotonic, sleep
from typing import Any

from fgbench.cluster.answers import Answer, ends_of, what_is_odd
from fgbench.cluster.engines import ENDED, RUNNING, Engine, Seen, why_it_failed
from fgbench.cluster.ledger import AGAIN, CANCELLED, DONE, FAILED, OPEN, Ledger, Record
from fgbench.cluster.node import PART
from fgbench.cluster.outbox import Open, Outbox
from fgbench.cluster.units import Asked, Collector, Walk
from fgbench.errors import ResultsError, UsageError
from fgbench.plan import Plan
from fgbench.running.phases import find, in_order
from fgbench.running.recovery import recover
from fgbench.running.watcher import NotesAlone, Watcher
from fgbench.store.run_folder import RunFolder, environment_of

PAUSE = 1.0  # seconds between two looks at the folder
TRIES = 2


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
            sweep.leave()
            raise
        except UsageError:
            sweep.leave()
            raise
        except OSError as error:
            sweep.leave()
            raise ResultsError(f"{folder.path}: {error}; what was stored before is whole.") from error
        finally:
            folder.finish(status)


@dataclass
class Sweep:
    """All groups of a plan, and their units that wait, are under way, or have failed once.

    Attributes:
        came: units whose answers have come, but have not been written as rows yet.
        told: the scheduler's reasons for which no task ran, as far as they were told.
        failures: by unit, why each of its tries failed.
    """

    engine: Engine
    plan: Plan
    folder: RunFolder
    watcher: Watcher
    walks: dict[str, Walk] = field(default_factory=dict)
    open: dict[str, Open] = field(default_factory=dict)
    came: deque[tuple[Asked, Answer]] = field(default_factory=deque)
    failures: dict[str, list[str]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    asked_at: float = float("-inf")

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.folder.path.absolute())
        self.outbox = Outbox(self.engine, self.plan, self.ledger)
        self.seen: dict[str, Seen] = {}
        facts = self.folder.facts()
        self.environment = {g["name"]: environment_of(facts, g) for g in facts["groups"]}

    @property
    def finished(self) -> bool:
        """Whether every group has gone through all its phases."""
        return all(walk.finished for walk in self.walks.values())

    def begin(self, contracts: Mapping[str, str]) -> None:
        """Take up what earlier runners know, and ask every group for its first units."""
        by_group: dict[str, set[Any]] = {}
        for unit in recover(self.folder):
            by_group.setdefault(unit.group, set()).add(unit)
        self.standing = self.ledger.begin()
        self._ask_what_runs()
        self.outbox.waves = self.standing.waves
        notes = NotesAlone(self.watcher.note)
        for group in self.plan.groups:
            run = Collector(self.plan, group, contracts[group.name], self.folder, notes)
            self.walks[group.name] = Walk(run, by_group.get(group.name, set()))
            self._take(self.walks[group.name].begin())

    def go(self) -> None:
        """Work until no unit is waiting or under way."""
        while self.outbox.waiting or self.open or self.came:
            if self.ledger.stop.exists():
                raise KeyboardInterrupt("by fgbench cancel")
            self.outbox.submit(self.open)
            self._look()
            self._collect()
            if self.open or self.outbox.silent:
                self._show()
                sleep(min(PAUSE, self.engine.seconds_between))
        for torn in self.ledger.units.glob(f"*{PART}*"):
            torn.unlink(missing_ok=True)

    def leave(self) -> None:
        """Say that tasks go on; where the user has cancelled them, end those that were handed out since."""
        if not self.open:
            return
        if self.ledger.stop.exists():
            self.engine.cancel([own.job for own in self.open.values()])
            return
        self.watcher.note(
            f"{len(self.open)} tasks go on without this process, and --resume finds what they leave; to stop "
            f"them: fgbench cancel {self.folder.path}"
        )

    # ---- handing out

    def _ask_what_runs(self) -> None:
        """What an earlier runner handed out is waited for where it is under way still, and not otherwise.

        One that was killed while it submitted did not learn the jobs: the scheduler knows them.
        """
        open_now = {n: r.job for n, r in self.standing.units.items() if r.state == OPEN}
        if not open_now and not self.standing.unanswered:
            return
        found = self.engine.seen(list(open_now.values()))
        if found is None:
            return
        self.seen = found
        for name, job in open_now.items():
            if found.get(job, Seen(ENDED)).state == ENDED:
                del self.standing.units[name]
        for wave, units in list(self.standing.unanswered.items()):
            jobs = sorted((job for job, seen in self.seen.items() if seen.wave == wave), key=_place)
            if len(jobs) == len(units):
                self.ledger.tell("submitted", wave=wave, jobs=jobs)
                for (name, seconds), job in zip(units.items(), jobs, strict=True):
                    self.standing.units[name] = Record(OPEN, job, wave, seconds)

    def _take(self, asked: Iterable[Asked]) -> None:
        """Units that are asked for: answered already, under way, or to be handed out."""
        for own in asked:
            name = own.unit.name
            record = self.standing.units.pop(name, None)
            if record and record.wave:
                self.outbox.count(name, record.wave)
            if self.ledger.file(name).exists():
                self._ended(own)
            elif record and record.state == OPEN:
                self.open[name] = Open(own, record.job, record.wave)
            else:
                self.outbox.waiting.append(own)

    # ---- answers

    def _look(self) -> None:
        """Take the answers that arrived, and give up on units whose tasks ended without one."""
        there = {file.stem for file in self.ledger.units.iterdir() if file.suffix == ".jsonl"}
        for name in [name for name in self.open if name in there]:
            self._ended(self._closed(name).asked)
        if self.open and monotonic() - self.asked_at >= self.engine.seconds_between:
            found = self.engine.seen([own.job for own in self.open.values()])
            self.asked_at = monotonic()
            if found is not None:  # None means that the scheduler is down; tasks go on
                self.seen = found
                for name, own in list(self.open.items()):
                    self._look_at(name, own)

    def _look_at(self, name: str, own: Open) -> None:
        seen = self.seen.get(own.job, Seen(ENDED))
        if seen.state != ENDED:
            own.missing_since = None
            return
        own.missing_since = own.missing_since or monotonic()
        patient = not seen.failed and monotonic() - own.missing_since < self.engine.patience
        if patient or self.ledger.file(name).exists():
            return
        self._closed(name)
        if seen.held:
            self.engine.drop(own.job)
        said = why_it_failed(self.ledger.jobs(own.wave), own.job)
        why = ": ".join(filter(None, (seen.word or "its task is gone", said)))
        if seen.word.startswith("PREEMPTED"):  # this is not the unit's own failure
            self.ledger.tell("ended", units=[name], state=AGAIN, why="its task was preempted")
            self.outbox.again(own.asked, "")
        elif seen.cancelled:
            self._give_up(own.asked, CANCELLED, "its task was cancelled")
        elif seen.out_of_time and not find(own.asked.unit.phase).goes_on:
            self._out_of_time(own.asked)
        else:
            self._failed(own.asked, why, seen.node)

    def _closed(self, name: str) -> Open:
        """Take a unit from those under way."""
        self.outbox.ended()
        return self.open.pop(name)

    def _ended(self, asked: Asked) -> None:
        """Take a unit's events, which may come from another kind of machine, or from a worker that died."""
        file = self.ledger.file(asked.unit.name)
        built, died = ends_of(file)
        node = built.node if built else ""
        if built and (odd := what_is_odd(built, self.environment[asked.unit.group])):
            self.outbox.odd.add(node)
            file.unlink()
            self._failed(asked, odd, node)
        elif died and len(self.failures.get(asked.unit.name, ())) + 1 < TRIES:
            file.unlink()
            self._failed(asked, died.detail, node)
        else:
            self.came.append((asked, Answer(file)))

    def _failed(self, asked: Asked, why: str, node: str) -> None:
        """Try a failed unit once more on another node; after `TRIES` failures, give up."""
        name = asked.unit.name
        where = f"on {node}: {why}" if node else why
        failures = self.failures.setdefault(name, [])
        failures.append(where)
        if len(failures) < TRIES:
            self.watcher.note(f"{name} failed {where}; it is tried once more, elsewhere.")
            self.ledger.tell("ended", units=[name], state=AGAIN, why=where)
            self.outbox.again(asked, node)
            return
        self._give_up(asked, FAILED, f"it failed {TRIES} times, {'; then '.join(failures)}")

    def _out_of_time(self, asked: Asked) -> None:
        """Give up a unit that reached its time limit, as it would again."""
        why = (
            "it reached its time limit, as it would again: give it more minutes with "
            f"fgbench run --resume {self.folder.path} --slurm time=…"
        )
        self.watcher.note(f"{asked.unit.name}: {why}.")
        self._give_up(asked, FAILED, why)

    def _give_up(self, asked: Asked, state: str, why: str) -> None:
        self.ledger.tell("ended", units=[asked.unit.name], state=state, why=why)
        self.came.append((asked, Answer(None, why)))

    def _collect(self) -> None:
        """Store the rows of every phase whose units have all come, and ask the group for its next units."""
        while self.came:
            asked, answer = self.came.popleft()
            walk = self.walks[asked.unit.group]
            collected, more = walk.take(asked.unit, answer)
            if collected:
                self._tidy(walk, asked)
            self._take(more)

    def _tidy(self, walk: Walk, asked: Asked) -> None:
        """Delete the events of units that became rows, and submitit's files of them."""
        phase = asked.unit.phase
        self.watcher.phase(walk.run.group, f"{phase} is measured", asked.seconds)
        names = [u.name for u in walk.done if u.phase == phase and self.ledger.file(u.name).exists()]
        self.ledger.tell("ended", units=names, state=DONE)
        for name in names:
            self.ledger.file(name).unlink()
            self.failures.pop(name, None)
            self.outbox.tidy(name)

    def _show(self) -> None:
        seen = [self.seen.get(own.job, Seen("")) for own in self.open.values()]
        running = sum(own.state == RUNNING for own in seen)
        queued = len(self.open) - running + len(self.outbox.waiting)
        reasons = "; ".join(sorted({own.reason for own in seen if own.reason}))
        if reasons and not running and reasons not in self.told:
            self.told.add(reasons)
            self.watcher.note(f"no task runs, all wait for a node ({reasons}).")
        why = f" ({reasons})" if reasons else ""
        if self.outbox.silent:
            why = " for the scheduler, which does not answer"
        self.watcher.progress(0.0, f"{running} tasks are running, {queued} are waiting{why}")


def _place(job: str) -> tuple[int, ...]:
    """A job's place in its array."""
    return tuple(int(part) for part in job.split("_") if part.isdigit())
