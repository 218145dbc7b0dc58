"""The training phase: train all methods from the same weights on the same batches, for each seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd

from fgbench import methods
from fgbench.plan import Config
from fgbench.running.group_run import FIRST_SEED, GroupRun, worker_died
from fgbench.running.matched import Matched
from fgbench.running.messages import Failed, Message, Report
from fgbench.running.phase import STARTUP_SECONDS, OfGroup, Phase, Tables, every_row
from fgbench.running.phases.tune import EVALUATION_SHARE, Tuning, tuning
from fgbench.running.reporting import blamed, failures_reported, report_failure
from fgbench.running.snapshot import Snapshot, Unreadable
from fgbench.running.trainees import Protocol, trainee
from fgbench.running.weights import KeptWeights
from fgbench.store.jobs import curves_to_the_end
from fgbench.summary.targets import DIVERGED, endings, target_rows, targets_of
from fgbench.training.loop import Point, take_turns
from fgbench.training.target import FURTHER

FURTHER_SHARE = 0.1  # what follows the budget is expected to take; a fifth of it for the slowest method


@dataclass(frozen=True, kw_only=True)
class TrainRequest(OfGroup):
    """What the process of one seed is asked.

    Attributes:
        protocol: how all jobs are trained.
        learning_rates: by method.
        snapshot: path of the file that holds the state between turns.
        weights: path of the folder for weights along training; empty where none are kept.
    """

    protocol: Protocol
    learning_rates: dict[str, float]
    snapshot: str
    weights: str = ""


@dataclass(frozen=True)
class Evaluated(Message):
    """A row of curves.csv: one evaluation of a method while training; `Point` explains the fields."""

    method: str
    iteration: int
    train_seconds: float
    evaluation_seconds: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    past_budget: bool = False

    @classmethod
    def of(cls, method: str, point: Point) -> Evaluated:
        """The event for a method's evaluation."""
        return cls(method, **asdict(point))


class Train(Phase):
    """The measured training runs."""

    name = "train"
    request = TrainRequest
    reports = (Evaluated, Unreadable)
    unit = "seed"
    tables: ClassVar[Tables] = {"curves": every_row}
    stands_after_death = False
    may_share = True
    goes_on = True

    def asked(self, config: Config) -> bool:
        """Unless only timing is asked for."""
        return config.train

    def after(self, config: Config) -> tuple[str, ...]:
        """After all others, as it takes longest and needs the learning rates."""
        return ("tune", "time", "alone", "load", "memory")

    def seconds(self, config: Config) -> float:
        """The training of every method with every seed, with its evaluations and what follows the budget."""
        return config.seeds * len(config.methods) * _seconds_of_one(config.max_train_seconds)

    def run(self, group: GroupRun) -> None:
        """Ask a process for each seed, and at the end derive the times to the targets."""
        found = tuning(group)
        if found is None:
            return
        try:
            for number in range(group.plan.config.seeds if found.rates else 0):
                self._seed(group, number, found)
        finally:
            store_targets(group)

    def _seed(self, group: GroupRun, number: int, found: Tuning) -> None:
        config, seed, grid = group.plan.config, FIRST_SEED + number, found.grid
        if group.finished(self.name, seed):
            return
        rates = {method: rate for method, rate in found.rates.items() if method not in group.left_out}
        protocol = Protocol.of(config, grid.every, grid.first)
        budget = protocol.budget
        text = f"training, seed {number + 1} of {config.seeds}"
        group.begin(text, len(rates) * _seconds_of_one(budget.seconds) + STARTUP_SECONDS)
        spent = dict.fromkeys(rates, 0.0)
        snapshot = group.folder.snapshot(f"{group.group.name}-{seed}")
        asked = {
            "protocol": protocol,
            "learning_rates": rates,
            "snapshot": str(snapshot.absolute()),
            # One seed's weights are enough: the quality of estimates differs little between seeds.
            "weights": str(weights_folder(group).absolute()) if seed == FIRST_SEED else "",
        }
        with group.jobs(self.name, list(rates), seed=seed) as jobs:
            for spec, job in jobs.items():
                queries = methods.chosen(spec, group.choices.conditions_of(group.group, spec)).queries
                job |= {"learning_rate": rates[spec], "queries": queries}
                job |= {"evaluate_every": grid.every, "evaluate_first": grid.first}
            for event in group.work(self, jobs, seed, **asked):
                if isinstance(event, Unreadable):
                    group.note(f"{text}: it begins anew, as its stored state cannot be read ({event.detail})")
                if not isinstance(event, Evaluated):
                    continue
                own = {"job": jobs[event.method]["job"], "seed": seed}
                group.store("curves", {**own, **asdict(event)})
                most = budget.steps(jobs[event.method]["queries"])
                spent[event.method] = budget.spent(event.train_seconds, event.iteration, most)
                group.watcher.progress(
                    sum(spent.values()) / len(spent),
                    f"{text}, {event.method}: validation loss {event.validation_loss:.3g}",
                )
        if not worker_died(jobs):  # otherwise a resume goes on from it
            group.drop_snapshot(snapshot)

    def measure(self, matched: Matched, asked: TrainRequest, report: Report) -> None:
        """Train all methods with one seed."""
        snapshot = Snapshot(Path(asked.snapshot), (Evaluated, Failed))
        weights = KeptWeights(Path(asked.weights) if asked.weights else None)
        rates = {method: asked.learning_rates[method] for method in asked.methods}
        train(matched, rates, asked.protocol, report, snapshot, weights)


def _seconds_of_one(budget: float) -> float:
    """How long one method is expected to train with one seed, for so many seconds of training."""
    return budget * (1 + EVALUATION_SHARE + FURTHER_SHARE)


def weights_folder(group: GroupRun) -> Path:
    """Where the first seed's weights are kept, for the phase that removes them."""
    return group.folder.snapshot(f"{group.group.name}-weights").with_suffix("")


def store_targets(group: GroupRun) -> None:
    """Derive the group's rows of targets.csv from its curves, in place of those of an interrupted try."""
    if not group.derives:
        return
    curves, config = group.rows("curves"), group.plan.config
    # A run that failed or was cut off tells nothing about the time to a target: it stays out of targets.csv.
    jobs = group.rows("jobs")
    curves = curves_to_the_end(curves, jobs)
    if curves.empty:
        group.replace("targets", [])
        return
    asked = config.target_loss, config.target_accuracy, group.plan.reference, group.plan.chance
    targets = targets_of(curves, *asked)
    if not targets:
        why = _no_target(endings(curves, jobs), curves, group.plan.reference)
        group.watcher.note(f"{group.group.name}: no target: {why}.")
    group.replace("targets", target_rows(curves, jobs, targets))


def _no_target(ends: Mapping[str, str], curves: pd.DataFrame, reference: str) -> str:
    """Why no target follows from the curves, and what would help."""
    own = curves["job"][curves["method"] == reference]
    if {ends.get(job) for job in own} == {DIVERGED}:
        return f"every run of {reference} diverged; give a lower --lr"
    return "no validation loss stayed below the first one, or chance; raise --max-train-seconds"


# ---- in the worker


def train(
    matched: Matched,
    rates: Mapping[str, float],
    protocol: Protocol,
    report: Report,
    snapshot: Snapshot | None = None,
    weights: KeptWeights | None = None,
) -> None:
    """Train all methods of the group in turns; report every evaluation, also those before a snapshot."""
    weights = weights or KeptWeights(None)
    kept, rng = snapshot or Snapshot(None), random.Random(matched.seed)
    tell = kept.telling(report)
    trainees = {}
    for spec, rate in rates.items():
        with failures_reported(report, spec), blamed(report, spec):
            trainees[spec] = trainee(matched, spec, rate, protocol)
    alive = kept.restore(trainees, rng, report)
    weights.begin(trainees, protocol.budget)
    ready = {}
    for spec in _captured_first(matched, trainees if alive is None else alive):
        with failures_reported(tell, spec), blamed(report, spec):
            trainees[spec].warm_up()
            ready[spec] = trainees[spec]

    def after_turn(left: Sequence[str]) -> None:
        weights.keep(ready, left, protocol.budget)
        kept.keep(trainees, left, rng)

    turns = take_turns(
        ready,
        protocol.grid,
        protocol.budget.seconds,
        rng,
        further=FURTHER,
        begun=alive is not None,
        after_turn=after_turn,
    )
    for spec, point in turns:
        if isinstance(point, Exception):
            report_failure(tell, spec, point)
            continue
        tell(Evaluated.of(spec, point))
        if not point.finite and not point.past_budget:
            tell(Failed(spec, "diverged", "its loss is no longer finite"))


def _captured_first(matched: Matched, specs: Iterable[str]) -> list[str]:
    """Methods in the order of their warm-ups.

    Before a capture torch empties the allocator's cache: a method that is warm by then would ask the GPU for
    memory again within its first timed steps.
    """
    return sorted(specs, key=lambda spec: not matched.conditions_of(spec).captured)


phase = Train()
