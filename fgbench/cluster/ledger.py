"""The ledger: what became of every unit that was handed to a cluster, line by line, in the run's folder.

The runner alone writes it. It says what is under way to a runner that takes over, and to `fgbench status`,
which has to answer at once: nothing here imports torch or pandas.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = "cluster"
DONE, OPEN, FAILED, CANCELLED, AGAIN = "done", "open", "failed", "cancelled", "again"


@dataclass
class Record:
    """What the ledger says of a unit.

    Attributes:
        state: `open` (submitted), `again` (it failed and is tried once more), `done`, `failed` or
            `cancelled`.
        job: the scheduler's number of its latest job.
        wave: the wave in which it was submitted.
        seconds: about how long it should take.
        why: why it failed.
    """

    state: str
    job: str = ""
    wave: str = ""
    seconds: float = 0.0
    why: str = ""


@dataclass
class Standing:
    """Where a run stands, by its ledger.

    Attributes:
        units: the records of the units, by the unit's name.
        unanswered: the units of the last wave, if the runner ended before the scheduler had answered.
        waves: how many waves were submitted.
        host: the machine of the latest runner; empty if an older fgbench began it.
    """

    units: dict[str, Record] = field(default_factory=dict)
    unanswered: dict[str, dict[str, float]] = field(default_factory=dict)
    waves: int = 0
    host: str = ""

    def count(self, *states: str) -> int:
        """How many units are in one of these states."""
        return sum(record.state in states for record in self.units.values())


@dataclass(frozen=True)
class Ledger:
    """`cluster/` in a run's folder: the ledger, the events of units, what submitit keeps."""

    run: Path

    @property
    def folder(self) -> Path:
        """The folder of everything that belongs to the cluster."""
        return self.run / FOLDER

    @property
    def units(self) -> Path:
        """Where the events of units come, until they are rows."""
        return self.folder / "units"

    @property
    def stop(self) -> Path:
        """A file that exists once a user has asked for the end; nothing is submitted after that."""
        return self.folder / "cancelled"

    def file(self, unit: str) -> Path:
        """The events of a unit."""
        return self.units / f"{unit}.jsonl"

    def jobs(self, wave: str) -> Path:
        """The folder in which submitit keeps its files of a wave."""
        return self.folder / "jobs" / wave

    def begin(self) -> Standing:
        """Make the folders where they are not there, and read what earlier runners wrote."""
        self.units.mkdir(parents=True, exist_ok=True)
        self.stop.unlink(missing_ok=True)
        standing = self.standing()
        self.tell("begin", host=socket.gethostname())
        return standing

    def tell(self, what: str, **facts: Any) -> None:
        """Add a line in one write; an incomplete line before it is left alone."""
        line = json.dumps({"what": what, "at": datetime.now(UTC).isoformat(timespec="seconds"), **facts})
        with self._file.open("ab+") as file:
            torn = file.tell() and file.seek(-1, 2) is not None and file.read(1) != b"\n"
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")

    def standing(self) -> Standing:
        """Where the run stands."""
        standing = Standing()
        for line in self._lines():
            _take(standing, line)
        return standing

    @property
    def _file(self) -> Path:
        return self.folder / "ledger.jsonl"

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self._file.exists():
            return
        with self._file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    yield json.loads(line)
                except ValueError:  # torn
                    continue


def _take(standing: Standing, line: dict[str, Any]) -> None:
    match line["what"]:
        case "begin":  # what failed before is tried anew
            standing.host = line.get("host", "")
            for name in [n for n, r in standing.units.items() if r.state not in (OPEN, DONE)]:
                del standing.units[name]
        case "submit":
            standing.waves += 1
            standing.unanswered = {line["wave"]: line["units"]}
        case "refused":
            standing.unanswered.pop(line["wave"], None)
        case "submitted":
            units = standing.unanswered.pop(line["wave"], {})
            for (name, seconds), job in zip(units.items(), line["jobs"], strict=False):
                standing.units[name] = Record(OPEN, job, line["wave"], seconds)
        case "ended":
            for name in line["units"]:
                record = standing.units.setdefault(name, Record(OPEN))
                record.state, record.why = line["state"], line.get("why", "")
