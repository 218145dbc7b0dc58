"""A matched group's jobs: their rows, their workers, and what becomes of them when one fails."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from fgbench.plan import Group, Plan
from fgbench.running.client import WorkerDiedError, work
from fgbench.running.recovery import ENDED_EARLY, Unit, leaves_out
from fgbench.running.watcher import Watcher
from fgbench.store.run_folder import RunFolder


@dataclass
class GroupJobs:
    """What every phase of a matched group needs: which methods are left, and workers that report."""

    plan: Plan
    group: Group
    contract: str
    folder: RunFolder
    watcher: Watcher
    done: Set[Unit] = frozenset()
    """What an earlier try finished."""
    left_out: set[str] = field(default_factory=set)
    """Methods that failed before: a step that is wrong or does not fit is not tried again."""
    noted: set[str] = field(default_factory=set)
    """What the watcher was told of steps."""
    executions: dict[str, str] = field(default_factory=dict)
    """The mode of each method, and of the base, where each has its own."""
    optimizers: dict[str, str] = field(default_factory=dict)
    """The optimiser of each method, where each has its own."""
    updates: dict[str, dict[str, str]] = field(default_factory=dict)
    """The update of each method that leaves its own open, by optimiser."""

    def __post_init__(self) -> None:
        jobs = self._rows("jobs")
        self.left_out |= set(jobs[leaves_out(jobs)]["method"])

    @property
    def methods(self) -> list[str]:
        """Those still in the running."""
        return [m for m in self.plan.config.methods if m not in self.left_out]

    def _finished(self, phase: str, index: int | None = None) -> bool:
        return Unit(self.group.name, phase, index) in self.done

    def _rows(self, table: str) -> pd.DataFrame:
        """The group's own rows of a table."""
        rows = self.folder.read(table)
        return rows[rows["group"] == self.group.name]

    @contextmanager
    def _jobs(
        self,
        phase: str,
        specs: list[str],
        seed: int,
        process: int | None = None,
        rates: dict[str, float] | None = None,
    ) -> Iterator[dict[str, dict[str, Any]]]:
        """The phase's jobs by method; stored as rows on leaving, however that comes about."""
        jobs: dict[str, dict[str, Any]] = {
            spec: {
                "job": f"{self.group.name}/{spec}/{phase}/{seed if process is None else process}",
                "group": self.group.name,
                "method": spec,
                "phase": phase,
                **{k: v for k, v in asdict(self.group).items() if k != "validation_size"},
                "execution": self.executions.get(spec, self.group.execution),
                "optimizer": self.optimizers.get(spec, self.group.optimizer),
                "seed": seed,
                "process": process,
                "learning_rate": (rates or {}).get(spec),
                "contract": self.contract,
                "status": "ok",
            }
            for spec in specs
        }
        try:
            yield jobs
        except KeyboardInterrupt as stopped:
            self._fail(jobs, "interrupted", str(stopped) or "by the user")
            raise
        except WorkerDiedError as died:
            self._fail(jobs, died.status, f"{ENDED_EARLY}{died.detail}")
            self.watcher.note(f"{self.group.name}: the {phase} process ended early: {died.detail}")
        except BaseException as error:  # the run ends here, not the jobs: they can be taken up again
            self._fail(jobs, "interrupted", f"{type(error).__name__}: {error}")
            raise
        finally:
            for spec, job in jobs.items():
                job["update"] = self.updates.get(spec, {}).get(job["optimizer"])
            self.folder.append("jobs", *jobs.values())

    def _fail(self, jobs: dict[str, dict[str, Any]], status: str, detail: str) -> None:
        for job in jobs.values():
            if job["status"] == "ok":
                job |= {"status": status, "detail": detail}

    def _note(self, job: dict[str, Any], text: str) -> None:
        """Into the job's row, and told once."""
        job["detail"] = text
        line = f"{self.group.name}, {job['method']}: {text}"
        if line not in self.noted:
            self.noted.add(line)
            self.watcher.note(line)

    def _work(
        self, phase: str, jobs: dict[str, dict[str, Any]], seed: int, **more: Any
    ) -> Iterator[dict[str, Any]]:
        """The events of a worker that does one phase; facts and failures go into the jobs' rows."""
        request = {
            "phase": phase,
            "group": asdict(self.group),
            "data_dir": self.plan.config.data_dir,
            "seed": seed,
            "methods": list(jobs),
            "executions": self.executions,
            "optimizers": self.optimizers,
            "updates": self.updates,
            **more,
        }
        for event in work(request):
            match event["event"]:
                case "built":
                    facts = {k: v for k, v in event.items() if k != "event"}
                    for job in jobs.values():
                        job |= facts
                case "failed" if event["method"] in jobs:
                    jobs[event["method"]] |= {"status": event["status"], "detail": event["detail"]}
                    if event["status"] != "diverged":
                        self.left_out.add(event["method"])
                    self.watcher.note(
                        f"{self.group.name}, {event['method']}: {event['status']}: {event['detail']}"
                    )
                case "first_call" if event["method"] in jobs:
                    jobs[event["method"]]["first_call_seconds"] = event["seconds"]
                case "noted" if event["method"] in jobs:
                    self._note(jobs[event["method"]], "; ".join(event["notes"]))
                case "usage_error":
                    raise WorkerDiedError("error", event["message"])
                case _:
                    yield event
