"""An engine that does a task at once, by a script: what a runner does with units, without any process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fgbench.cluster.engines import ENDED, RUNNING, Engine, NoRoomError, Seen, Wave
from fgbench.cluster.node import Died, NodeTask
from fgbench.running.client import WorkerDiedError
from fgbench.running.messages import encode
from fgbench.running.phase import Phase
from fgbench.running.task import task_at
from tests.cluster.worker import line_of
from tests.scripted import Script

Fate = Callable[[str, int], str]
"""What becomes of a unit, by its name and try: `ok`, `never` (it runs on), or how it ended without a file."""


@dataclass
class Scripted(Engine):
    """Answers every order by a script, on nodes n1, n2, … in turn."""

    script: Script = field(default_factory=Script)
    fate: Fate = lambda _unit, _try: "ok"
    machine: Callable[[str], dict[str, Any]] = lambda _node: {}
    at_once: int = 1000
    most: int = 10**9
    seconds_between: float = 0.0
    patience: float = 0.0
    waves: list[tuple[Wave, list[str]]] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)
    known: dict[str, Seen] = field(default_factory=dict)
    under_way: list[NodeTask] = field(default_factory=list)
    answers: bool = True
    dropped: list[str] = field(default_factory=list)

    def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
        wave.folder.mkdir(parents=True, exist_ok=True)  # as submitit does, before it asks the scheduler
        if len(tasks) > self.most:
            raise NoRoomError("QOSMaxSubmitJobPerUserLimit")
        names = [task.file.stem for task in tasks]
        self.waves.append((wave, names))
        jobs = [f"{len(self.waves)}_{number}" for number in range(len(tasks))]
        nodes = itertools.cycle(n for n in ("n1", "n2", "n3") if n not in wave.without)
        for job, name, task, node in zip(jobs, names, tasks, nodes, strict=False):
            self.tries[name] = self.tries.get(name, 0) + 1
            fate = self.fate(name, self.tries[name])
            if fate == "never":
                self.under_way.append(task)
            self.known[job] = Seen(RUNNING, node) if fate == "never" else Seen(ENDED, node, fate, wave.name)
            if fate == "ok":
                self.known[job] = Seen(ENDED, node, "COMPLETED", wave.name)
                task.file.write_text("".join(self.lines(task, node)))
        return jobs

    def lines(self, task: NodeTask, node: str) -> list[str]:
        found: list[str] = []
        try:
            for order in task.orders:
                phase = task_at(order.task)
                assert isinstance(phase, Phase)
                asked = {"phase": phase.name, **json.loads(order.request)}
                self.script.requests.append(asked)
                for happened in self.script.tell(asked):
                    where = {"node": node, **self.machine(node)} if happened["event"] == "Built" else {}
                    found.append(line_of({**happened, **where}))
                found.append('{"kind": "Done", "facts": {}}\n')
        except WorkerDiedError as died:
            found.append(encode(Died(died.status, died.detail)))
        return found

    def seen(self, jobs: Sequence[str]) -> dict[str, Seen] | None:
        return dict(self.known) if self.answers else None

    def cancel(self, jobs: Sequence[str]) -> None:
        self.known |= {job: Seen(ENDED, "", "CANCELLED") for job in self.known}

    def drop(self, job: str) -> None:
        self.dropped.append(job)
