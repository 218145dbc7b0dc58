"""A run's folder: it is created before the first job, grows row by row, and is readable at any moment."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
from filelock import FileLock, Timeout

from fgbench.errors import ResultsError, UsageError
from fgbench.store.by_group import LinesByGroup
from fgbench.store.csv_table import (
    append_rows,
    header_of,
    lines_of,
    read_table,
    records,
    replace_bytes,
    replace_rows,
    replace_text,
    table_of,
)
from fgbench.store.schema import LOCK_FILE, OLDEST_READABLE, SCHEMA_VERSION, TABLES
from fgbench.version import __version__

RUN_FILE = "run.json"
# Words for conditions whose name in a file is not the word for them.
NAMES = {"source": "the model's code", "data": "the data's contents", "power_limit": "power limit"}
REQUIRED_FACTS = ("config", "environment", "groups", "reference")


@dataclass(frozen=True)
class RunFolder:
    """`results/<run>/`: `run.json` and the CSVs of the schema."""

    path: Path
    _latest: dict[str, tuple[list[bytes], pd.DataFrame]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _groups: dict[str, LinesByGroup] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def create(cls, root: Path, label: str, facts: Mapping[str, Any]) -> RunFolder:
        """Make a new folder `<time>-<label>` under `root` with its `run.json`, status `running`.

        Args:
            root: made where it is not there.
            label: of the folder, after the time.
            facts: what `run.json` holds besides: command, config, environment, groups, reference.

        Raises:
            UsageError: the folder cannot be written.
        """
        now = datetime.now(UTC)
        own = {
            "id": uuid4().hex,  # which a copy of the folder has too
            "schema_version": SCHEMA_VERSION,
            "fgbench_version": __version__,
            "status": "running",
            "started": now.isoformat(timespec="seconds"),
        }
        try:
            folder = cls(_new_folder(root, f"{now:%Y%m%d-%H%M%S}-{label}"))
            folder._write({**own, **facts})
        except OSError as error:
            raise UsageError(
                f"--out {root}: cannot be written ({error.strerror}); name a folder that can."
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open an existing run.

        Raises:
            ResultsError: `run.json` is absent, damaged or of another schema version.
        """
        folder = cls(path)
        facts = folder.facts()
        found = facts.get("schema_version")
        if found not in range(OLDEST_READABLE, SCHEMA_VERSION + 1):
            raise ResultsError(
                f"{path}: schema version {found}, this fgbench ({__version__}) reads {OLDEST_READABLE} "
                f"to {SCHEMA_VERSION}; "
                "read it with the fgbench version that wrote it."
            )
        absent = [key for key in REQUIRED_FACTS if key not in facts]
        if absent:
            raise ResultsError(f"{path / RUN_FILE}: lacks {', '.join(absent)}; it is not a whole run.json.")
        groups = facts["groups"]
        named = isinstance(groups, list) and all(isinstance(g, dict) and "name" in g for g in groups)
        if not named or not isinstance(facts["config"], dict):
            raise ResultsError(f"{path / RUN_FILE}: its groups or its config are damaged.")
        return folder

    def facts(self) -> dict[str, Any]:
        """The content of `run.json`."""
        file = self.path / RUN_FILE
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ResultsError(f"{file}: cannot be read ({error.strerror}).") from error
        except ValueError as error:
            raise ResultsError(f"{file}: this is not JSON ({error}).") from error
        if not isinstance(facts, dict):
            raise ResultsError(f"{file}: must hold a JSON object.")
        return facts

    def finish(self, status: str) -> None:
        """Set the run's status (`done`, `interrupted`, `error`) and the time it ended."""
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        self._write({**self.facts(), "status": status, "ended": ended})

    def note(self, **facts: Any) -> None:
        """Put facts into run.json, in place of what they were; the caller must hold the run.

        Raises:
            ResultsError: it cannot be written.
        """
        self._write({**self.facts(), **facts})

    @property
    def seeds_before(self) -> list[int]:
        """How many seeds the run had each time that more were asked for."""
        found: list[int] = self.facts().get("seeds_before", [])
        return found

    def ask_for_seeds(self, seeds: int) -> None:
        """Put another number of seeds into the config, and note what it was; the caller must hold the run.

        Raises:
            ResultsError: it cannot be written.
        """
        config = self.facts()["config"]
        self.note(config={**config, "seeds": seeds}, seeds_before=[*self.seeds_before, config["seeds"]])

    def append(self, table: str, *rows: Mapping[str, Any]) -> None:
        """Append rows to a table; they are on their way to the disk when this returns."""
        with _writing(self._file(table)) as file:
            append_rows(file, rows)

    def replace(self, table: str, rows: Iterable[Mapping[Any, Any]]) -> None:
        """Put a derived table in place, whole."""
        with _writing(self._file(table)) as file:
            replace_rows(file, rows)

    def replace_group(self, table: str, group: str, rows: Sequence[Mapping[Any, Any]]) -> None:
        """Put one group's rows of a derived table in place; those of other groups stay."""
        if self.read_group(table, group).empty:
            if rows:
                self.append(table, *rows)
            return
        file = self._file(table)
        lines = self._groups.pop(table)
        if lines.header + b"\n" != header_of(table):  # an older version's columns
            kept = self.read(table)
            self.replace(table, [*records(kept[kept["group"] != group]), *rows])
            return
        with _writing(file):
            replace_bytes(file, lines.replaced(group, lines_of(table, rows)))
        self._groups[table] = lines

    def has(self, table: str) -> bool:
        """Whether anything of the table's kind was stored."""
        return self._file(table).exists()

    def snapshot(self, name: str) -> Path:
        """Where a worker keeps the state of what it trains; gone when that is done."""
        return self.path / "snapshots" / f"{name}.pt"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run, so that nobody else writes to it meanwhile.

        Raises:
            UsageError: another fgbench does, or the folder cannot be written.
        """
        lock = FileLock(self.path / LOCK_FILE, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"{self.path}: another fgbench is writing to it; wait for its end, or give it up there."
            ) from None
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror or error}).") from error
        try:
            yield
        finally:
            lock.release()  # keep the file: a process that has it open would lock a deleted one

    def begin(self) -> None:
        """Note that work on the run begins or goes on; the caller must hold the run.

        Raises:
            ResultsError: it cannot be written.
        """
        facts = self.facts()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if "begun" in facts:
            facts["resumed"] = [*facts.get("resumed", ()), now]
        self._write({"begun": now, **facts, "status": "running"})

    def read(self, table: str) -> pd.DataFrame:
        """A table as a DataFrame; empty where nothing of its kind was measured.

        Raises:
            ResultsError: a damaged table.
        """
        return read_table(self._file(table))

    def read_group(self, table: str, group: str) -> pd.DataFrame:
        """A group's own rows of a table, in time that does not grow with those of others.

        Raises:
            ResultsError: a damaged table.
        """
        file = self._file(table)
        lines = self._groups.setdefault(table, LinesByGroup(file))
        try:
            found = lines.of(group)
            if table not in self._latest or self._latest[table][0] != found:
                self._latest[table] = found, table_of(file, found)
            return self._latest[table][1].copy(deep=False)
        except (OSError, ValueError, ResultsError, csv.Error):  # reading the whole table names the bad line
            rows = read_table(file)
            return rows[rows["group"] == group]

    def _file(self, table: str) -> Path:
        if table not in TABLES:
            raise ResultsError(f"no table '{table}': choose from {', '.join(TABLES)}.")
        return self.path / f"{table}.csv"

    def _write(self, facts: Mapping[str, Any]) -> None:
        with _writing(self.path / RUN_FILE) as file:
            replace_text(file, json.dumps(facts, indent=2) + "\n")


@contextmanager
def _writing(file: Path) -> Iterator[Path]:
    try:
        yield file
    except OSError as error:
        raise ResultsError(
            f"{file}: cannot be written ({error.strerror}); what was stored before is whole."
        ) from error


def environment_of(facts: Mapping[str, Any], group: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where a group was measured: a merged run's groups have each its own shard's environment."""
    found: Mapping[str, Any] = group.get("environment", facts["environment"])
    return found


def find_runs(path: Path) -> list[RunFolder]:
    """The run at `path`, or all runs below it, oldest first.

    Raises:
        ResultsError: the path is not there, holds no run, or holds one of another schema version.
    """
    if not path.is_dir():
        raise ResultsError(f"{path}: there is no such folder; `fgbench run` makes one.")
    # A run's name begins with its time.
    found = sorted((file.parent for file in path.rglob(RUN_FILE)), key=lambda run: (run.name, str(run)))
    if not found:
        raise ResultsError(f"{path}: holds no run (no {RUN_FILE}); `fgbench run --out {path}` makes one.")
    return [RunFolder.open(folder) for folder in found]


def read_runs(runs: Iterable[RunFolder], table: str) -> pd.DataFrame:
    """A table of several runs in one DataFrame, with the run's name in a first column `run`."""
    frames = []
    for run in runs:
        frame = run.read(table)
        frame.insert(0, "run", pd.Series(run.path.name, index=frame.index, dtype="string"))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _new_folder(root: Path, stem: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        path = root / (stem + suffix)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(17, f"too many runs named {stem}", str(root))
