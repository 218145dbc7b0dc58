"""The tuning and training phases: learning rates on a seed of their own, then the measured runs."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from fgbench import methods
from fgbench.measurement.clock import clock_for
from fgbench.training.loop import Point, Trainee, take_turns
from fgbench.training.search import TRIAL_SHARE, search
from fgbench.worker.matched import Matched
from fgbench.worker.reporting import Report, failures_reported, report_failure
from fgbench.worker.timing import LEARNING_RATE

POINTS = 60  # evaluations of the quickest method within its budget, at most
LEAST_POINTS = 10  # of the slowest, where its steps allow
EVALUATION_SHARE = 0.25  # evaluation's seconds as a share of training's, for the quickest method
JUDGED_POINTS = 3  # a trial is judged by the mean of its last evaluations
WARM_UP_STEPS, PACED_STEPS = 2, 3


@dataclass(frozen=True)
class Pace:
    """Seconds of one training step of a method, and of one evaluation."""

    step: float
    evaluation: float


def evaluation_grid(paces: Sequence[Pace], max_seconds: float) -> int:
    """Steps between evaluations, the same for all methods.

    Often enough for a smooth curve, seldom enough to be a small part of the work, and yet a few
    times in the run of the slowest method.
    """
    quickest, slowest = min(p.step for p in paces), max(p.step for p in paces)
    smooth = math.ceil(max_seconds / POINTS / quickest)
    cheap = math.ceil(max(p.evaluation for p in paces) / (EVALUATION_SHARE * quickest))
    return max(1, min(max(smooth, cheap), int(max_seconds / LEAST_POINTS / slowest)))


def tune(
    matched: Matched, specs: tuple[str, ...], max_seconds: float, searched: bool, report: Report
) -> None:
    """Pace every method, which sets the evaluation grid, and search its learning rate."""
    paces = {}
    for spec in specs:
        with failures_reported(report, spec):
            paces[spec] = _pace(matched, spec)
    if not paces:
        return
    every = evaluation_grid(list(paces.values()), max_seconds)
    report("grid", every=every)
    for spec in paces if searched else ():
        with failures_reported(report, spec):
            _search(matched, spec, every, max_seconds, report)


def train(matched: Matched, rates: dict[str, float], every: int, max_seconds: float, report: Report) -> None:
    """Train all methods of the group in turns; report every evaluation."""
    trainees = {}
    for spec, rate in rates.items():
        with failures_reported(report, spec):
            _pace(matched, spec)  # first calls compile and allocate: not on the clock
            trainees[spec] = _trainee(matched, spec, rate)
    for spec, point in take_turns(trainees, every, max_seconds, random.Random(matched.seed)):
        if isinstance(point, Exception):
            report_failure(report, spec, point)
            continue
        report("point", method=spec, **asdict(point))
        if not point.finite:
            report("failed", method=spec, status="diverged", detail="its loss is no longer finite")


def _trainee(matched: Matched, spec: str, rate: float) -> Trainee:
    model = matched.copy_of_model()
    conditions = matched.conditions_of(spec)
    step = methods.prepare(methods.find(spec), model, matched.loss, matched.seed, conditions)
    return Trainee(model, step, matched.loss, rate, matched.data, matched.order, clock_for(matched.device))


def _pace(matched: Matched, spec: str) -> Pace:
    trainee = _trainee(matched, spec, LEARNING_RATE)
    trainee.advance(WARM_UP_STEPS)
    trainee.evaluate()
    before = trainee.train_seconds, trainee.evaluation_seconds
    trainee.advance(PACED_STEPS)
    trainee.evaluate()
    return Pace((trainee.train_seconds - before[0]) / PACED_STEPS, trainee.evaluation_seconds - before[1])


def _search(matched: Matched, spec: str, every: int, max_seconds: float, report: Report) -> None:
    def trial(rate: float, full: bool) -> float:
        seconds = max_seconds if full else max_seconds * TRIAL_SHARE
        points = _points(matched, spec, rate, every, seconds)
        end = points[-1]
        loss = fmean(p.validation_loss for p in points[1:][-JUDGED_POINTS:]) if end.finite else math.inf
        report(
            "trial",
            method=spec,
            seed=matched.seed,
            learning_rate=rate,
            full=full,
            train_seconds=end.train_seconds,
            iterations=end.iteration,
            validation_loss=loss,
            status="ok" if end.finite else "diverged",
        )
        return loss

    report("tuned", method=spec, learning_rate=search(trial).learning_rate)


def _points(matched: Matched, spec: str, rate: float, every: int, seconds: float) -> list[Point]:
    alone = {spec: _trainee(matched, spec, rate)}
    points = []
    for _, point in take_turns(alone, every, seconds, random.Random(matched.seed)):
        if isinstance(point, Exception):
            raise point
        points.append(point)
    return points
