"""The tuning phase: find the evaluation grid of a group, and a learning rate for each method.

Both are found on a seed of their own, which no measured run has.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, ClassVar

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.plan import Config
from fgbench.running.group_run import GroupRun, Jobs
from fgbench.running.matched import Matched
from fgbench.running.messages import Message, Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Tables, every_row
from fgbench.running.reporting import blamed, failures_reported
from fgbench.running.trainees import Protocol, pace, trainee
from fgbench.specs.options import OR
from fgbench.store.csv_table import records
from fgbench.store.jobs import died
from fgbench.training.choice import Choice, Goal, WholeRun, choose
from fgbench.training.loop import Grid, Point, take_turns
from fgbench.training.pacing import JUDGED_POINTS, evaluation_grid, short_grid
from fgbench.training.search import TRIAL_SHARE, TYPICAL_RUNS, search
from fgbench.training.target import FURTHER

EVALUATION_SHARE = 0.2  # evaluation is expected to take this share of training's seconds, in addition


@dataclass(frozen=True, kw_only=True)
class TuneRequest(OfGroup):
    """What the process is asked.

    Attributes:
        protocol: how the measured runs are trained.
        goal: the targets by which learning rates are chosen; None where no rate is searched.
    """

    protocol: Protocol
    goal: Goal | None


@dataclass(frozen=True)
class GridFound(Message):
    """The grid of evaluations, and by method how many evaluations of the model a step counts as."""

    every: int
    first: int
    queries: dict[str, int]


@dataclass(frozen=True)
class Trial(Message):
    """A row of search.csv: one trial of a search."""

    method: str
    seed: int
    optimizer: str
    learning_rate: float
    full: bool
    train_seconds: float
    iterations: int
    validation_loss: float
    status: str


@dataclass(frozen=True)
class Scored(Message):
    """How a whole run of a search did: the targets that it reached, and the sum of the seconds to them."""

    optimizer: str
    learning_rate: float
    chosen: bool
    targets_reached: int
    target_seconds: float | None


@dataclass(frozen=True)
class Tuned(Message):
    """The search's choice for a method, the criterion that decided, and how the method's whole runs did."""

    method: str
    optimizer: str
    learning_rate: float
    chosen_by: str
    scored: tuple[Scored, ...]

    @classmethod
    def of(cls, method: str, choice: Choice) -> Tuned:
        """The event for a method's choice."""
        scored = tuple(
            Scored(run.optimizer, run.learning_rate, run is choice.run, reached, seconds)
            for run, reached, seconds in choice.scored
        )
        return cls(method, choice.run.optimizer, choice.run.learning_rate, choice.by, scored)


@dataclass(frozen=True)
class Tuning:
    """The result of tuning a group: the grid of evaluations, and a learning rate by method."""

    grid: Grid
    rates: dict[str, float]


class Tune(Phase):
    """Searches learning rates; where a rate is given, it only measures how fast steps are (pacing)."""

    name = "tune"
    request = TuneRequest
    reports = (GridFound, Trial, Tuned)
    tables: ClassVar[Tables] = {"search": every_row}
    stands_after_death = False
    may_share = True

    def asked(self, config: Config) -> bool:
        """Unless only timing is asked for."""
        return config.train

    def after(self, config: Config) -> tuple[str, ...]:
        """Before timing if it chooses optimisers, and after all timing otherwise."""
        return (
            ("modes",) if OR in config.optimizer else ("modes", "budget", "time", "alone", "load", "memory")
        )

    def seconds(self, config: Config) -> float:
        """A typical search of each method, evaluations included."""
        return _searching(config, len(config.methods)) * (1 + EVALUATION_SHARE)

    def run(self, group: GroupRun) -> None:
        """Ask one process for all methods, and take up the optimisers that it chose."""
        if not group.finished(self.name):
            with group.jobs(self.name, group.methods) as jobs:
                self._search(group, jobs)
        if found := tuning(group):
            optimizers = _jobs(group).set_index("method")["optimizer"]
            for method in found.rates:
                group.choices = group.choices.with_optimizer(method, str(optimizers[method]))

    def _search(self, group: GroupRun, jobs: Jobs) -> None:
        config, given, spent = group.plan.config, group.plan.config.learning_rates, 0.0
        goal = Goal(config.target_loss, config.target_accuracy, group.plan.reference, group.plan.chance)
        searching = _searching(config, len(jobs))
        text = "pacing" if given else "learning-rate search"
        group.begin(text, searching + STARTUP_SECONDS)
        protocol = Protocol.of(config, config.evaluate_every)
        for event in group.work(self, jobs, protocol=protocol, goal=None if given else goal):
            match event:
                case GridFound():
                    grid = {"evaluate_every": event.every, "evaluate_first": event.first}
                    for spec, job in jobs.items():
                        job |= {"learning_rate": given.get(spec), "queries": event.queries.get(spec), **grid}
                case Trial():
                    group.store("search", asdict(event))
                    spent += event.train_seconds
                    found = f"{event.learning_rate:g} gives loss {event.validation_loss:.3g}"
                    share = min(spent / searching, 1.0)
                    group.watcher.progress(share, f"{text}, {event.method}: {found}")
                case Tuned():
                    chosen = {"learning_rate": event.learning_rate, "optimizer": event.optimizer}
                    jobs[event.method] |= chosen
                    _mark_chosen(group, event)

    def measure(self, matched: Matched, asked: TuneRequest, report: Report) -> None:
        """Tune all methods, one after the other."""
        tune(matched, asked.methods, asked.protocol, asked.goal, report)


def _searching(config: Config, count: int) -> float:
    """Seconds of training in the searches of so many methods."""
    if config.learning_rate is not None:
        return 0.0
    return TYPICAL_RUNS * config.max_train_seconds * len(config.optimizer.split(OR)) * count


def tuning(group: GroupRun) -> Tuning | None:
    """The stored result of a group's tuning, for the methods that have not failed.

    None where nothing is stored, or where the worker died and may not have tuned all methods.
    """
    jobs = _jobs(group)
    if jobs.empty or died(jobs).any():
        return None
    tuned = jobs[jobs["learning_rate"].notna()]
    if tuned.empty:
        return None
    every, first = (int(tuned[column].iloc[0]) for column in ("evaluate_every", "evaluate_first"))
    rates = dict(zip(tuned["method"], tuned["learning_rate"], strict=True))
    return Tuning(Grid(every, first), {m: r for m, r in rates.items() if m not in group.left_out})


def _jobs(group: GroupRun) -> Any:
    jobs = group.rows("jobs")
    return jobs[jobs["phase"] == Tune.name]


def _mark_chosen(group: GroupRun, tuned: Tuned) -> None:
    """Store in the search's rows how a method's whole runs did, and which of them was chosen."""
    found = list(records(group.rows("search")))
    scored = {(run.optimizer, run.learning_rate): run for run in tuned.scored}
    for row in found:
        if row["method"] != tuned.method:
            continue
        run = scored.get((row["optimizer"], row["learning_rate"])) if row["full"] else None
        row["chosen"] = run is not None and run.chosen
        if run:
            row |= {"targets_reached": run.targets_reached, "target_seconds": run.target_seconds}
        if row["chosen"]:
            row["chosen_by"] = tuned.chosen_by
    group.replace("search", found)


# ---- in the worker


def tune(
    matched: Matched, specs: Sequence[str], protocol: Protocol, goal: Goal | None, report: Report
) -> None:
    """Measure every method's pace, which sets the evaluation grid, and search its learning rate.

    Rates are chosen by the time to the targets in `goal`, which are the targets of the measured runs; with
    None there is no search. All methods finish their whole runs before any choice is made, as targets may
    be computed from these runs.
    """
    paces = {}
    for spec in specs:
        with failures_reported(report, spec), blamed(report, spec):
            paces[spec] = pace(matched, spec, protocol)
    if not paces:
        return
    seconds = protocol.budget.seconds
    grid = evaluation_grid(list(paces.values()), seconds, protocol.every)
    short = short_grid(list(paces.values()), seconds, grid.every)
    report(GridFound(grid.every, grid.first, {spec: _queries(matched, spec) for spec in paces}))
    found = {}
    for spec in paces if goal else ():
        with failures_reported(report, spec):
            whole = replace(protocol, every=grid.every, first=grid.first)
            found[spec] = _whole_runs(matched, spec, whole, short, report)
    targets = goal.targets(found) if goal else []
    for spec, runs in found.items():
        report(Tuned.of(spec, choose(runs, targets)))


def _queries(matched: Matched, spec: str) -> int:
    """How many evaluations of the model a step of the chosen variant counts as."""
    return methods.chosen(spec, matched.conditions_of(spec)).queries


def _whole_runs(
    matched: Matched, spec: str, protocol: Protocol, short: Grid, report: Report
) -> list[WholeRun]:
    """The whole runs of a method's search; of one search for each optimiser where there are several."""
    found: list[WholeRun] = []
    refused: UsageError | None = None
    for optimizer in matched.group.optimizers:
        own = replace(matched, choices=matched.choices.with_optimizer(spec, optimizer))
        try:
            found += _search(own, spec, optimizer, protocol, short, report)
        except UsageError as error:  # the method cannot use this optimiser
            refused = error
    if not found:
        assert refused is not None
        raise refused
    return found


def _search(
    matched: Matched, spec: str, optimizer: str, protocol: Protocol, short: Grid, report: Report
) -> list[WholeRun]:
    part = protocol.budget.share(TRIAL_SHARE)
    brief = replace(protocol, budget=part, every=short.every, first=short.first)
    runs: list[WholeRun] = []

    def trial(rate: float, full: bool) -> float:
        points = _points(matched, spec, rate, protocol if full else brief, FURTHER if full else 0)
        within = [point for point in points if not point.past_budget]
        end = within[-1]
        loss = fmean(p.validation_loss for p in within[1:][-JUDGED_POINTS:]) if end.finite else math.inf
        status = "ok" if end.finite else "diverged"
        spent = (end.train_seconds, end.iteration)
        report(Trial(spec, matched.seed, optimizer, rate, full, *spent, loss, status))
        if full:
            runs.append(WholeRun(optimizer, rate, loss, points))
        return loss

    search(trial)
    return runs


def _points(matched: Matched, spec: str, rate: float, protocol: Protocol, further: int) -> list[Point]:
    trained = trainee(matched, spec, rate, protocol)
    trained.warm_up()
    points = []
    rng = random.Random(matched.seed)
    turns = take_turns({spec: trained}, protocol.grid, protocol.budget.seconds, rng, further=further)
    for _, point in turns:
        if isinstance(point, Exception):
            raise point
        points.append(point)
    return points


phase = Tune()
