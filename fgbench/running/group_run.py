"""One matched group during a run: its jobs, its workers and its rows, for the phases to use."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from fgbench.plan import Group, Plan
from fgbench.running.choices import Choices
from fgbench.running.client import WorkerDiedError, work
from fgbench.running.messages import Began, Built, Failed, FirstCall, Message, Noted, Refused
from fgbench.running.task import Task
from fgbench.running.watcher import Watcher
from fgbench.store.jobs import BESIDE, ENDED_EARLY, leaves_out
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import TABLES

SEARCH_SEED = 0  # the seed of everything but measured training runs
FIRST_SEED = 1  # the first seed of measured training runs

Jobs = dict[str, dict[str, Any]]
"""The rows of jobs.csv that a phase is about to write, by method."""


@dataclass(frozen=True)
class Unit:
    """What is done again as a whole after an interruption: a phase of a group, or one process or seed of it.

    Attributes:
        group: its name.
        phase: its name.
        index: number of the process or the seed; None where the phase has but one.
    """

    group: str
    phase: str
    index: int | None = None

    @property
    def name(self) -> str:
        """A name that is unique within a run."""
        return ".".join((self.group, self.phase, *([] if self.index is None else [str(self.index)])))


@dataclass
class GroupRun:
    """What every phase of a matched group needs.

    Attributes:
        done: the units that an earlier try finished.
        left_out: methods that failed in an earlier phase, and are not tried again.
        choices: what earlier phases chose for the methods.
        noted: the notes on steps that the watcher has been told, so that each is told only once.
    """

    plan: Plan
    group: Group
    contract: str
    folder: RunFolder
    watcher: Watcher
    done: Set[Unit] = frozenset()
    left_out: set[str] = field(default_factory=set)
    choices: Choices = field(default_factory=Choices)
    noted: set[str] = field(default_factory=set)

    goes_on_after_death: ClassVar[bool] = False
    """Whether a phase asks for its next process after the last one's worker died."""
    derives: ClassVar[bool] = True
    """Whether to make tables that are derived from others."""

    def __post_init__(self) -> None:
        jobs = self.rows("jobs")
        self.left_out |= set(jobs[leaves_out(jobs)]["method"])

    @property
    def methods(self) -> list[str]:
        """The specs of the methods that have not failed."""
        return [m for m in self.plan.config.methods if m not in self.left_out]

    def finished(self, phase: str, index: int | None = None) -> bool:
        """Whether an earlier try finished the phase, or one of its processes or seeds."""
        return Unit(self.group.name, phase, index) in self.done

    # ---- tables and the watcher

    def rows(self, table: str) -> pd.DataFrame:
        """The group's own rows of a table."""
        return self.folder.read_group(table, self.group.name)

    def store(self, table: str, *rows: dict[str, Any]) -> None:
        """Append rows to a table, as the group's."""
        self.folder.append(table, *({"group": self.group.name, **row} for row in rows))

    def replace(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Replace all rows that the group has in a table."""
        own = [{**row, "group": self.group.name} for row in rows]
        self.folder.replace_group(table, self.group.name, own)

    def begin(self, text: str, seconds: float) -> None:
        """Tell the watcher that something begins that is expected to take about `seconds`."""
        self.watcher.phase(self.group, text, seconds)

    def note(self, text: str, method: str = "") -> None:
        """Tell the watcher something that the reader should know; the same line is told only once."""
        line = f"{self.group.name}{f', {method}' if method else ''}: {text}"
        if line not in self.noted:
            self.noted.add(line)
            self.watcher.note(line)

    # ---- jobs and workers

    @contextmanager
    def jobs(
        self, phase: str, methods: list[str], seed: int = SEARCH_SEED, process: int | None = None
    ) -> Iterator[Jobs]:
        """The phase's jobs by method; they are stored as rows at the end, also after an error."""
        jobs = {spec: self._job(phase, spec, seed, process) for spec in methods}
        try:
            yield jobs
        except KeyboardInterrupt as stopped:
            _end(jobs, "interrupted", str(stopped) or "by the user")
            raise
        except WorkerDiedError as died:
            _end(jobs, died.status, f"{ENDED_EARLY}{died.detail}")
            self.watcher.note(f"{self.group.name}: the {phase} process ended early: {died.detail}")
        except BaseException as error:  # the run ends here, but the jobs can be resumed
            _end(jobs, "interrupted", f"{type(error).__name__}: {error}")
            raise
        finally:
            for spec, job in jobs.items():
                job["update"] = self.choices.update_of(spec, job["optimizer"])
            self.store("jobs", *jobs.values())

    def _job(self, phase: str, spec: str, seed: int, process: int | None) -> dict[str, Any]:
        return {
            "job": f"{self.group.name}/{spec}/{phase}/{seed if process is None else process}",
            "method": spec,
            "phase": phase,
            **{k: v for k, v in asdict(self.group).items() if k in TABLES["jobs"]},
            "execution": self.choices.executions.get(spec, self.group.execution),
            "optimizer": self.choices.optimizers.get(spec, self.group.optimizer),
            "seed": seed,
            "process": process,
            "contract": self.contract,
            "status": "ok",
        }

    def work(self, task: Task, jobs: Jobs, seed: int = SEARCH_SEED, **asked: Any) -> Iterator[Message]:
        """The events of a worker that does a task for the group.

        Facts and failures of the jobs go into their rows; the task's own events are given.

        Args:
            task: one whose requests are `OfGroup`.
            jobs: of the methods that it is asked to do.
            seed: that model, batches and tangents follow from.
            asked: what the task's request has beside.
        """
        kind: Any = task.request
        request = kind(
            group=self.group,
            data_dir=self.plan.config.data_dir,
            seed=seed,
            methods=tuple(jobs),
            choices=self.choices,
            **asked,
        )
        for event in self.answers(task, request):
            match event:
                case Built():
                    for job in jobs.values():
                        job |= asdict(event)
                case Refused():
                    raise WorkerDiedError("error", event.message)
                case Began():
                    pass
                case FirstCall() if event.method in jobs:
                    jobs[event.method]["first_call_seconds"] = event.seconds
                case Noted() if event.method in jobs:
                    jobs[event.method]["detail"] = "; ".join(event.notes)
                    self.note("; ".join(event.notes), event.method)
                case Failed():
                    self._fail(event, jobs)
                case _:
                    yield event

    def answers(self, task: Task, request: Any) -> Iterator[Message]:
        """The events of a worker that gets the request; here, of one that is started now."""
        return work(task, request)

    def drop_snapshot(self, snapshot: Path) -> None:
        """Delete a snapshot of training that is no longer needed."""
        snapshot.unlink(missing_ok=True)
        with suppress(OSError):  # it may hold others
            snapshot.parent.rmdir()

    def _fail(self, event: Failed, jobs: Jobs) -> None:
        """Put a method's failure into its job's row; the base and repeats have no row."""
        if event.method not in jobs:
            return
        jobs[event.method] |= {"status": event.status, "detail": event.detail}
        if event.status != "diverged" and jobs[event.method]["phase"] not in BESIDE:
            self.left_out.add(event.method)
        self.watcher.note(f"{self.group.name}, {event.method}: {event.status}: {event.detail}")


def worker_died(jobs: Jobs) -> bool:
    """Whether the worker of a phase's jobs ended before it was done."""
    return any(job.get("detail", "").startswith(ENDED_EARLY) for job in jobs.values())


def _end(jobs: Jobs, status: str, detail: str) -> None:
    for job in jobs.values():
        if job["status"] == "ok":
            job |= {"status": status, "detail": detail}
