"""Recovery: put in order what an interrupted run left, so that it can go on where it stopped.

A run is made of units, each begun and ended by one worker or one set of them: a process of timing, a
seed of training. A unit is finished when every method has its row in `jobs.csv` there; the rows of
one that is not are taken out, and it is done again. So is one whose worker died, in a phase whose
results would otherwise stand on a part of it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from fgbench.running.group_run import Unit
from fgbench.running.phase import Phase
from fgbench.running.phases import find, phases
from fgbench.store.csv_table import records
from fgbench.store.jobs import died, leaves_out
from fgbench.store.run_folder import RunFolder
from fgbench.store.schema import DERIVED


def recover(folder: RunFolder) -> set[Unit]:
    """Remove all rows that belong to no finished unit, and incomplete lines; gives the finished units.

    Raises:
        ResultsError: a table is damaged otherwise.
    """
    jobs = folder.read("jobs")
    done = finished(jobs, folder.facts()["config"]["methods"])
    _keep(folder, "jobs", jobs, done)
    for table in {table for phase in phases() for table in phase.tables}:
        _keep(folder, table, folder.read(table), done)
    for table in DERIVED:
        if folder.has(table):
            folder.replace(table, records(folder.read(table)))
    return done


def finished(jobs: pd.DataFrame, methods: list[str]) -> set[Unit]:
    """The units in which every method has ended, or was left out as it had failed before."""
    again = [phase.name for phase in phases() if not phase.stands_after_death]
    to_do = (jobs["status"] == "interrupted") | (died(jobs) & jobs["phase"].isin(again))
    unfinished = {unit_of_job(row) for row in jobs[to_do].to_dict("records")}
    ended = jobs[~to_do]
    failed = ended[leaves_out(ended)].groupby("group")["method"].agg(set).to_dict()
    units: dict[Unit, set[str]] = {}
    for row in ended.to_dict("records"):
        units.setdefault(unit_of_job(row), set()).add(row["method"])
    whole = {unit for unit, there in units.items() if set(methods) <= there | failed.get(unit.group, set())}
    return whole - unfinished


def unit_of_job(job: Any) -> Unit:
    """The unit that a row of jobs.csv belongs to."""
    return _unit(find(job["phase"]), job)


def _keep(folder: RunFolder, table: str, rows: pd.DataFrame, done: set[Unit]) -> None:
    if folder.has(table):
        folder.replace(table, [row for row in records(rows) if unit_of(table, row) in done])


def unit_of(table: str, row: Any) -> Unit:
    """The unit that a row of a table belongs to."""
    if table == "jobs":
        return unit_of_job(row)
    return _unit(next(p for p in phases() if table in p.tables and p.tables[table](row)), row)


def _unit(phase: Phase, row: Any) -> Unit:
    return Unit(row["group"], phase.name, int(row[phase.unit]) if phase.unit else None)
