"""Recovery: what an interrupted run left is put in order, so that it can go on where it stopped.

A run is made of units, each begun and ended by one worker or one set of them: a process of timing, a
seed of training. A unit is finished when every method has its row in `jobs.csv` there; the rows of
one that is not are taken out, and it is done again. So is one of tuning or training whose worker died:
what comes after it would stand on a part of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fgbench.store.run_folder import RunFolder

INDEX = {"time": "process", "alone": "process", "train": "seed"}  # what counts a phase's units
TABLES_OF = {
    "modes": ("modes",),
    "time": ("samples", "parts"),
    "alone": ("samples",),
    "load": ("load",),
    "memory": ("memory",),
    "tune": ("search",),
    "train": ("curves",),
}
TRIED_AGAIN = ("tune", "train")  # where the worker died; what timing and memory have measured stands
ENDED_EARLY = "its process ended early: "  # begins the detail of jobs whose worker died


@dataclass(frozen=True)
class Unit:
    """One phase of one group, and which of its processes or seeds; None where it has but one."""

    group: str
    phase: str
    index: int | None = None


def recover(folder: RunFolder) -> set[Unit]:
    """Take out what belongs to no finished unit, torn lines included; gives the finished ones.

    Raises:
        ResultsError: a table is damaged otherwise.
    """
    jobs = folder.read("jobs")
    done = finished(jobs, folder.facts()["config"]["methods"])
    _keep(folder, "jobs", jobs, done)
    for table in {table for tables in TABLES_OF.values() for table in tables}:
        _keep(folder, table, folder.read(table), done)
    return done


def finished(jobs: pd.DataFrame, methods: list[str]) -> set[Unit]:
    """The units in which every method has ended, or was left out after it failed in another.

    None of tuning or training whose worker died.
    """
    to_do = (jobs["status"] == "interrupted") | (died(jobs) & jobs["phase"].isin(TRIED_AGAIN))
    unfinished = {unit_of_job(row) for row in jobs[to_do].to_dict("records")}
    ended = jobs[~to_do]
    failed = ended[leaves_out(ended)].groupby("group")["method"].agg(set).to_dict()
    units: dict[Unit, set[str]] = {}
    for row in ended.to_dict("records"):
        units.setdefault(unit_of_job(row), set()).add(row["method"])
    whole = {unit for unit, there in units.items() if set(methods) <= there | failed.get(unit.group, set())}
    return whole - unfinished


def leaves_out(jobs: pd.DataFrame) -> pd.Series:
    """Whether each job failed so that no later unit of its group tries the method.

    One whose worker died does not: which method the worker died of, nobody knows.
    """
    return jobs["status"].isin(("oom", "error")) & ~died(jobs)


def died(jobs: pd.DataFrame) -> pd.Series:
    """Whether each job ended because its worker did."""
    return jobs["detail"].astype("string").str.startswith(ENDED_EARLY).fillna(value=False).astype(bool)


def unit_of_job(job: Any) -> Unit:
    """The unit that a row of jobs.csv belongs to."""
    column = INDEX.get(job["phase"])
    return Unit(job["group"], job["phase"], None if column is None else int(job[column]))


def _keep(folder: RunFolder, table: str, rows: pd.DataFrame, done: set[Unit]) -> None:
    if folder.has(table):
        folder.replace(table, [row for row in records(rows) if _unit_of(table, row) in done])


def records(rows: pd.DataFrame) -> Iterator[dict[Any, Any]]:
    """A table's rows as they were written: what is missing stays empty."""
    cells = rows.astype(object)
    yield from cells.where(cells.notna(), None).to_dict("records")  # missing stays empty


def _unit_of(table: str, row: Any) -> Unit:
    if table == "jobs":
        return unit_of_job(row)
    if table == "samples":
        return Unit(row["group"], "alone" if row["role"] == "alone" else "time", int(row["process"]))
    phase = next(phase for phase, tables in TABLES_OF.items() if table in tables)
    column = INDEX.get(phase)
    return Unit(row["group"], phase, None if column is None else int(row[column]))
