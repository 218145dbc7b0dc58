"""The tuning and training phases: learning rates on a seed of their own, then the measured runs."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.measurement.clock import clock_for
from fgbench.running.checkpoint import Checkpoint
from fgbench.running.matched import Matched
from fgbench.running.reporting import Report, failures_reported, report_failure
from fgbench.running.timing import LEARNING_RATE
from fgbench.training.choice import Goal, WholeRun, choose
from fgbench.training.loop import STRETCH, Budget, Grid, Point, Rate, Trainee, take_turns
from fgbench.training.search import TRIAL_SHARE, search

POINTS = 60  # evaluations of the quickest method within its budget, at most
LEAST_POINTS = 10  # of the slowest, where its steps allow
EVALUATION_SHARE = 0.25  # evaluation's seconds as a share of training's, for the quickest method
JUDGED_POINTS = 3  # a trial is judged by the mean of its last evaluations
PACED_STEPS = 3


@dataclass(frozen=True)
class Pace:
    """Seconds of one training step of a method, of one evaluation, and the steps its budget leaves it."""

    step: float
    evaluation: float
    most_steps: float = math.inf


def evaluation_grid(paces: Sequence[Pace], max_seconds: float, every: int | None = None) -> Grid:
    """The steps at which all methods are evaluated.

    Often enough for a smooth curve, seldom enough to be a small part of the work, and yet a few
    times in the run of the method that takes the fewest steps; closer at the start as far as that
    costs no more than a part of the run.
    """
    every = every or _even_steps(paces, max_seconds)
    slowest_evaluation = max(p.evaluation for p in paces)
    first = STRETCH
    while (
        first < every
        and Grid(every, first).close_points() * slowest_evaluation > EVALUATION_SHARE * max_seconds
    ):
        first *= 2
    return Grid(every, min(first, every))


def _even_steps(paces: Sequence[Pace], max_seconds: float) -> int:
    steps = [min(max_seconds / pace.step, pace.most_steps) for pace in paces]
    smooth = math.ceil(max(steps) / POINTS)
    quickest = min(p.step for p in paces)
    cheap = math.ceil(max(p.evaluation for p in paces) / (EVALUATION_SHARE * quickest))
    return max(1, min(max(smooth, cheap), int(min(steps) / LEAST_POINTS)))


def short_grid(paces: Sequence[Pace], max_seconds: float, every: int) -> Grid:
    """The evenly spaced steps at which short trials are evaluated.

    So close that the method that takes the fewest steps is evaluated once more than its trial is judged
    by: every trial is then judged by as many steps as every other.
    """
    fewest = min(min(max_seconds / pace.step, pace.most_steps) for pace in paces)
    distance = max(1, min(every, int(fewest * TRIAL_SHARE / (JUDGED_POINTS + 1))))
    return Grid(distance, distance)


@dataclass(frozen=True)
class Protocol:
    """How every job of a group is trained, but for its learning rate.

    Attributes:
        budget: of a job.
        decay: of the learning rate, per step.
        every: steps between evaluations, at most; None where they are to be found.
        first: at the start.
    """

    budget: Budget
    decay: float = 0.0
    every: int | None = None
    first: int = STRETCH

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Protocol:
        """From a request's dictionaries."""
        return cls(Budget(**asked["budget"]), asked["decay"], asked["every"], asked["first"])

    @property
    def grid(self) -> Grid:
        """Of evaluations, once it is known."""
        assert self.every is not None
        return Grid(self.every, self.first)


def tune(
    matched: Matched, specs: Sequence[str], protocol: Protocol, goal: Goal | None, report: Report
) -> None:
    """Pace every method, which sets the evaluation grid, and search its learning rate.

    The search serves `goal`, the targets whose times are reported; None leaves it out. All methods'
    whole runs come before any choice: targets may follow from them.
    """
    paces = {}
    for spec in specs:
        with failures_reported(report, spec):
            paces[spec] = _pace(matched, spec, protocol)
    if not paces:
        return
    grid, short = _grids(list(paces.values()), protocol)
    queries = {spec: methods.find(spec).queries for spec in paces}
    report("grid", every=grid.every, first=grid.first, queries=queries)
    found = {}
    for spec in paces if goal else ():
        with failures_reported(report, spec):
            whole = replace(protocol, every=grid.every, first=grid.first)
            found[spec] = _whole_runs(matched, spec, whole, short, report)
    bounds = goal.bounds(found) if goal else []
    for spec, runs in found.items():
        report("tuned", method=spec, **choose(runs, bounds).facts())


def _grids(paces: Sequence[Pace], protocol: Protocol) -> tuple[Grid, Grid]:
    """Of whole runs and of short trials."""
    grid = evaluation_grid(paces, protocol.budget.seconds, protocol.every)
    return grid, short_grid(paces, protocol.budget.seconds, grid.every)


def train(
    matched: Matched,
    rates: Mapping[str, float],
    protocol: Protocol,
    report: Report,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train all methods of the group in turns; report every evaluation, those before a checkpoint too."""
    kept, rng = checkpoint or Checkpoint(None), random.Random(matched.seed)
    tell = kept.telling(report)
    trainees = {}
    for spec, rate in rates.items():
        with failures_reported(report, spec):
            trainees[spec] = _trainee(matched, spec, rate, protocol)
    alive = kept.restore(trainees, rng, report)
    ready = {}
    for spec in trainees if alive is None else alive:
        with failures_reported(tell, spec):
            trainees[spec].warm_up()
            ready[spec] = trainees[spec]
    turns = take_turns(
        ready,
        protocol.grid,
        protocol.budget.seconds,
        rng,
        begun=alive is not None,
        after_turn=lambda left: kept.keep(trainees, left, rng),
    )
    for spec, point in turns:
        if isinstance(point, Exception):
            report_failure(tell, spec, point)
            continue
        tell("point", method=spec, **asdict(point))
        if not point.finite:
            tell("failed", method=spec, status="diverged", detail="its loss is no longer finite")


def _trainee(matched: Matched, spec: str, rate: float, protocol: Protocol) -> Trainee:
    model = matched.copy_of_model()
    method = methods.find(spec)
    step = methods.prepare(method, model, matched.loss, matched.seed, matched.conditions_of(spec))
    return Trainee(
        model,
        step,
        matched.loss,
        Rate(rate, protocol.decay),
        matched.data,
        matched.order,
        clock_for(matched.device),
        protocol.budget.steps(method.queries),
    )


def _pace(matched: Matched, spec: str, protocol: Protocol) -> Pace:
    trainee = _trainee(matched, spec, LEARNING_RATE, Protocol(Budget(math.inf)))
    trainee.warm_up()
    steps, evaluations = [], []
    for _ in range(PACED_STEPS):  # the quickest: what else runs now is not its pace
        before = trainee.train_seconds, trainee.evaluation_seconds
        trainee.advance(1)
        trainee.evaluate()
        steps.append(trainee.train_seconds - before[0])
        evaluations.append(trainee.evaluation_seconds - before[1])
    return Pace(
        min(steps),
        min(evaluations),
        protocol.budget.steps(methods.find(spec).queries),
    )


def _whole_runs(
    matched: Matched, spec: str, protocol: Protocol, short: Grid, report: Report
) -> list[WholeRun]:
    """Of a method's search, and of one for each optimiser where there are several."""
    found: list[WholeRun] = []
    refused: UsageError | None = None
    for optimizer in matched.group.optimizers:
        own = replace(matched, optimizers={**matched.optimizers, spec: optimizer})
        try:
            found += _search(own, spec, optimizer, protocol, short, report)
        except UsageError as error:  # the method does not go with this one
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
        points = _points(matched, spec, rate, protocol if full else brief)
        end = points[-1]
        loss = fmean(p.validation_loss for p in points[1:][-JUDGED_POINTS:]) if end.finite else math.inf
        report(
            "trial",
            method=spec,
            seed=matched.seed,
            optimizer=optimizer,
            learning_rate=rate,
            full=full,
            train_seconds=end.train_seconds,
            iterations=end.iteration,
            validation_loss=loss,
            status="ok" if end.finite else "diverged",
        )
        if full:
            runs.append(WholeRun(optimizer, rate, loss, points))
        return loss

    search(trial)
    return runs


def _points(matched: Matched, spec: str, rate: float, protocol: Protocol) -> list[Point]:
    trainee = _trainee(matched, spec, rate, protocol)
    trainee.warm_up()
    points = []
    turns = take_turns({spec: trainee}, protocol.grid, protocol.budget.seconds, random.Random(matched.seed))
    for _, point in turns:
        if isinstance(point, Exception):
            raise point
        points.append(point)
    return points
