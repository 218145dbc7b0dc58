"""Merge several runs into one: shards of a grid, or processes and seeds of the same groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fgbench.errors import UsageError
from fgbench.measurement.environment import conditions
from fgbench.plan import Config, Group, Plan
from fgbench.running.group_run import GroupRun, Unit
from fgbench.running.phases import find
from fgbench.running.phases.time import store_ratios
from fgbench.running.phases.train import store_targets
from fgbench.running.recovery import finished, unit_of
from fgbench.running.watcher import Watcher
from fgbench.specs.options import OR
from fgbench.store.csv_table import records
from fgbench.store.repeats import named, repeats
from fgbench.store.run_folder import NAMES, RunFolder
from fgbench.store.schema import DERIVED, TABLES
from fgbench.summary.targets import chance_of

ALL, LAST = "all", "last"
LOOKING = ("modes", "budget")  # phases that look for the program: what they measure is no figure's
# Fields of the config that may differ between the runs.
OWN = (
    *("shard", "data_dir", "archs", "depths", "seeds", "processes", "time", "train", "isolated"),
    *("precision", "max_measure_seconds"),
)
PROGRAM = ("execution", "optimizer", "update", "variant")  # jobs that differ in these take different steps
UNNAMED = ("contract", "environment", "start", "chance_loss")  # of a group: others say what differs
TRAINING = ("learning_rate", "evaluate_every", "evaluate_first")  # and in these are trained differently

Row = dict[Any, Any]


@dataclass
class Kept:
    """Which units of a group are taken from one run, and the number of each in the merged run.

    Attributes:
        whole: whether the group is in no other run, so that its rows stay as they are.
        refused: whether some units were measured otherwise than those that are kept.
    """

    run: RunFolder
    whole: bool = True
    units: dict[Unit, int | None] = field(default_factory=dict)
    refused: bool = False

    @property
    def nothing(self) -> bool:
        """Whether all that was measured is refused, but for what a later run has too."""
        return self.refused and all(unit.phase in LOOKING for unit in self.units)


def merge(runs: Sequence[RunFolder], out: Path, keep: str, watcher: Watcher) -> RunFolder:
    """Make one run of several; the runs themselves stay as they are.

    A group that is in several has the last one's contract, choices and learning rates: what was measured
    otherwise is refused, and the watcher told. Of a unit that is in several, the last one's is kept.

    Args:
        runs: in the order of time.
        out: the folder that gets the merged run's.
        keep: `all` keeps processes that are in several runs too, with numbers of their own; `last` does not.
        watcher: is told what was refused.

    Raises:
        UsageError: fewer than two, one of them twice, other options or tables of another version in one, one
            that is still running, or one of which nothing can be taken.
        ResultsError: a damaged run.
    """
    if len(runs) < 2:
        raise UsageError("merge needs two runs or more: name their folders.")
    facts = [run.facts() for run in runs]
    _check_once(runs)
    for run, own in zip(runs, facts, strict=True):
        _check(run, own, runs[-1], facts[-1])
    groups: dict[str, Row] = {}
    holders: dict[str, list[RunFolder]] = {}
    for run, own in zip(runs, facts, strict=True):
        for group in own["groups"]:
            groups[group["name"]] = {**_where(own), **group}
            holders.setdefault(group["name"], []).append(run)
    kept = {name: _kept(name, groups[name], own, keep, watcher) for name, own in holders.items()}
    _check_taken(runs, kept)
    merged = RunFolder.create(
        out,
        "merged",
        {
            **{key: facts[-1][key] for key in ("command", "reference", "environment")},
            "config": _config([own["config"] for own in facts]),
            "groups": list(groups.values()),
            **_seeds_before(facts),
            "merged": [named(run, own) for run, own in zip(runs, facts, strict=True)],
        },
    )
    for table in TABLES:
        rows = [row for name in groups for own in kept[name] for row in _rows(own, table, name)]
        if rows:
            merged.replace(table, rows)
    joined = {name: _stopped(own, name) for name, own in kept.items() if not own[0].whole}
    _derive(merged, joined, watcher)
    merged.finish("done" if all(own["status"] == "done" for own in facts) else "interrupted")
    return merged


def _check_once(runs: Sequence[RunFolder]) -> None:
    """Refuse a run that is there twice: its processes would count as twice as many, and intervals shrink."""
    for place, why in repeats(runs).items():
        raise UsageError(f"{runs[place].path} {why}: leave one of them out.")


def _check(run: RunFolder, own: Row, last: RunFolder, others: Row) -> None:
    if _shared(own) != _shared(others):
        differing = sorted(k for k, v in _shared(own).items() if _shared(others).get(k) != v)
        raise UsageError(
            f"{run.path} and {last.path} cannot be one run: they differ in {', '.join(differing)}."
        )
    if own["status"] == "running":
        raise UsageError(f"{run.path} is still running, or was killed: --resume it first.")


def _shared(facts: Row) -> Row:
    own = {key: value for key, value in facts["config"].items() if key not in OWN}
    return {**own, "reference": facts["reference"], "the version of their tables": facts["schema_version"]}


def _where(facts: Row) -> Row:
    """A run's groups with their environment and version, which may differ between groups of a merged run."""
    environment = facts["environment"]
    return {
        "device_name": environment["device_name"],
        "environment": environment,
        "fgbench_version": facts["fgbench_version"],
    }


def _config(configs: Sequence[Row]) -> Row:
    """The last run's config, extended by what the other runs asked for."""

    def union(name: str) -> list[Any] | None:
        lists = [config.get(name) for config in configs]
        return None if None in lists else list(dict.fromkeys(v for values in lists for v in values or ()))

    def every(of: Callable[[Iterable[Any]], Any], *names: str) -> Row:
        return {n: of(c[n] for c in configs) for n in names if all(n in c for c in configs)}

    own = every(max, "seeds", "processes") | every(any, "time", "train", "isolated")
    lists = {n: union(n) for n in ("archs", "depths") if n in configs[-1]}
    return {**configs[-1], **own, **lists, "shard": ""}


def _seeds_before(facts: Sequence[Row]) -> Row:
    """To how many seeds more were added in any of the runs; nothing where none were."""
    before = {count for own in facts for count in own.get("seeds_before", ())}
    return {"seeds_before": sorted(before)} if before else {}


# ---- one group in several runs


def _kept(name: str, group: Row, runs: Sequence[RunFolder], keep: str, watcher: Watcher) -> list[Kept]:
    """What is kept of each run that has a group, the last run first."""
    last = runs[-1]
    joined = [last]
    for run in reversed(runs[:-1]):
        own = next(g for g in run.facts()["groups"] if g["name"] == name)
        if own.get("contract") == group.get("contract"):
            joined.append(run)
        else:
            why = _differs({**_where(run.facts()), **own}, group)
            watcher.note(
                f"{name} of {run.path} is refused: it has another contract than in {last.path}{why}."
            )
    if len(joined) == 1:
        return [Kept(last)]
    joining = Joining(name, keep, watcher)
    return [joining.kept_of(run) for run in joined]


def _differs(own: Row, kept: Row) -> str:
    """What of a group is another in the run whose contract is kept, in words after a colon."""
    own, kept = ({**group, **conditions(group["environment"])} for group in (own, kept))
    names = [name for name in kept if name not in UNNAMED and own.get(name) != kept[name]]
    pairs = (f"{NAMES.get(n, n)} {own.get(n) or 'none'} and not {kept[n] or 'none'}" for n in names)
    return f": {', '.join(pairs)}" if names else ""


def _check_taken(runs: Sequence[RunFolder], kept: Mapping[str, Sequence[Kept]]) -> None:
    """Refuse a run all of which was measured otherwise than what is kept; the watcher was told why."""
    taken = {own.run.path for holders in kept.values() for own in holders if not own.nothing}
    for run in runs:
        if run.path not in taken:
            raise UsageError(f"nothing of {run.path} can be merged with the others: leave it out.")


@dataclass
class Joining:
    """Takes a group's units of one run after the other.

    Attributes:
        group: the name of the group.
        keep: as in `merge`.
        watcher: as in `merge`.
        taken: the units taken so far.
        known: by method, the columns of its jobs in which all others have to match, whatever their phase.
    """

    group: str
    keep: str
    watcher: Watcher
    taken: set[Unit] = field(default_factory=set)
    known: dict[str, Row] = field(default_factory=dict)

    def kept_of(self, run: RunFolder) -> Kept:
        """The units of a run that are kept beside those of later runs."""
        kept, twice, cut_short = Kept(run, whole=False), [], []
        units, done = _units(run, self.group)
        variants = _variants(run, self.group)
        for unit, jobs in units.items():
            name = unit.name.removeprefix(f"{self.group}.")
            if unit not in done:
                cut_short.append(name)
            elif why := self._other(unit.phase, jobs, variants):
                kept.refused = True
                self.watcher.note(f"{unit.name} of {run.path} is refused: {why}.")
            elif (own := self._place(unit)) is not None:
                self.taken.add(own)
                kept.units[unit] = own.index
            else:
                twice.append(name)
        for names, why in ((twice, "a later run has them too"), (cut_short, "they were not finished")):
            if names:
                self.watcher.note(f"{self.group} of {run.path}: {', '.join(names)} stay out: {why}.")
        return kept

    def _place(self, unit: Unit) -> Unit | None:
        """The unit's counterpart in the merged run; None where it is not kept."""
        if unit not in self.taken:
            return unit
        if self.keep == ALL and find(unit.phase).unit == "process":
            number = 1 + max(own.index or 0 for own in self.taken if own.phase == unit.phase)
            return Unit(unit.group, unit.phase, number)
        return None

    def _other(self, phase: str, jobs: Iterable[Row], variants: Mapping[str, str]) -> str:
        """Why a unit's figures cannot be combined with those that are kept; empty where they can."""
        if phase in LOOKING:
            return ""
        for job in ({**job, "variant": variants.get(job["method"], "none")} for job in jobs):
            if phase == "tune" and OR in job["optimizer"]:  # the method failed before one was chosen
                continue
            known = self.known.setdefault(job["method"], {})
            for column in (*PROGRAM, *(TRAINING if phase == "train" else ())):
                if job[column] != (like := known.setdefault(column, job[column])):
                    return f"{job['method']} has {column} {job[column]}, and {like} where it is kept"
        return ""


def _units(run: RunFolder, group: str) -> tuple[dict[Unit, list[Row]], set[Unit]]:
    """The jobs of a group's units, and those of the units that are finished."""
    jobs = run.read_group("jobs", group)
    units: dict[Unit, list[Row]] = {}
    for row in records(jobs):
        units.setdefault(unit_of("jobs", row), []).append(row)
    return units, finished(jobs, run.facts()["config"]["methods"])


def _variants(run: RunFolder, group: str) -> dict[str, str]:
    """By method, the variant that a memory budget chose; empty without a budget."""
    rows = run.read_group("variants", group)
    chosen = rows[rows["chosen"].fillna(value=False).astype(bool)]
    return dict(zip(chosen["method"], chosen["variant"], strict=True))


def _rows(kept: Kept, table: str, group: str) -> Iterator[Row]:
    rows = records(kept.run.read_group(table, group))
    if kept.whole:
        yield from rows
        return
    if table in DERIVED:
        return
    for row in rows:
        unit = unit_of(table, row)
        if unit not in kept.units:
            continue
        number = kept.units[unit]
        if number != unit.index:
            row["process"] = number
            if "job" in row:
                row["job"] = f"{row['job'].rpartition('/')[0]}/{number}"
        yield row


def _stopped(kept: Sequence[Kept], group: str) -> str | None:
    """Why timing ended, by the last of the runs whose processes are kept."""
    timed = [own.run for own in kept if any(unit.phase == "time" for unit in own.units)]
    reasons = (reason for run in timed for reason in run.read_group("ratios", group)["stopped"].dropna())
    return next(map(str, reasons), None)


def _derive(merged: RunFolder, joined: Mapping[str, str | None], watcher: Watcher) -> None:
    """Derive the tables that follow from others, for groups that were joined, each with why timing ended."""
    facts = merged.facts()
    names = [own.name for own in fields(Group)]
    by_name = {g["name"]: Group(**{n: g[n] for n in names if n in g}) for g in facts["groups"]}
    chance = chance_of(facts["groups"][0]) or math.inf
    plan = Plan(Config.from_facts(facts["config"]), tuple(by_name.values()), chance=chance)
    for name, stopped in joined.items():
        run = GroupRun(plan, by_name[name], "", merged, watcher)
        store_ratios(run, stopped)
        store_targets(run)
