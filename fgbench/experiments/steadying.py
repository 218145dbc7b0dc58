"""How large a learning rate each method bears, and what of the usual means against noise makes it sooner.

    python -m fgbench.experiments.steadying --out results/steadying

All methods train the same MLP on MNIST with each of these means: none; momentum of 0.9; steps no longer than
their running mean (clipped); steps as long as the rate (normalised); evaluation at an average of late weights
(polynomial decay, Shamir and Zhang 2013); Adam. Scaling an estimate to the gradient's own variance
is not among them: it divides the rate by a constant, and the rate is searched here.

The search is the same for all: rates fall by a factor of two from the largest until two in a row are no
sooner than the best, all with the same seeds and the same seconds of plain steps. `steadying.csv` has a row
for each run, `steadying_best.csv` one for each method and means. Seconds are steps times those of the
method's plain step: what the means cost, a few additions a parameter, is left out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from fgbench import methods
from fgbench.measurement.environment import describe_environment
from fgbench.methods import Batch, Conditions, Step
from fgbench.plan import Config, make_plan
from fgbench.running.matched import Matched, build_matched
from fgbench.store.experiment import command, store_experiment
from fgbench.training.loop import Grid, evaluate

METHODS = (
    "backprop",
    "forward",
    "forward:structure=activity",
    "forward:tangents=16,structure=activity",
    "forward:structure=activity,layers=one,sampling=uniform",
    "forward:tangents=16,structure=activity,layers=one,sampling=uniform",
)
NONE, AVERAGED, ADAM = "none", "averaged", "adam"
TARGETS = (0.5, 0.3)  # validation losses; chance is 2.30
RATES = tuple(8.0 / 2**halvings for halvings in range(24))
PATIENCE = 2  # rates in a row that are no sooner than the best
MOMENTUM, MEMORY, LATE = 0.9, 0.99, 8
PACED_STEPS, EVALUATIONS = 50, 30
REACHED, ENDED, DIVERGED = "reached", "ended", "diverged"
LEARNED = 0.99  # of the first loss, or of chance if that is lower: a run above it has learned nothing


def momentum() -> Callable[[Tensor, float], Tensor]:
    """Heavy ball, as torch.optim.SGD has it."""
    velocity: list[Tensor] = []

    def change(step: Tensor, rate: float) -> Tensor:
        velocity[:] = [step if not velocity else velocity[0] * MOMENTUM + step]
        return velocity[0]

    return change


def clipped() -> Callable[[Tensor, float], Tensor]:
    """A step is made no longer than the running mean of the steps before."""
    mean: list[float] = []

    def change(step: Tensor, rate: float) -> Tensor:
        length = float(step.norm())
        most = mean[0] if mean else length
        mean[:] = [MEMORY * most + (1 - MEMORY) * length]
        return step * (most / length) if length > most else step

    return change


def normalised() -> Callable[[Tensor, float], Tensor]:
    """A step is made as long as the rate."""

    def change(step: Tensor, rate: float) -> Tensor:
        return step * (rate / max(float(step.norm()), 1e-30))

    return change


CHANGES: dict[str, Callable[[], Callable[[Tensor, float], Tensor]]] = {
    "momentum": momentum,
    "clipped": clipped,
    "normalised": normalised,
}
MEANS = (NONE, *CHANGES, AVERAGED, ADAM)


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        steps: taken until it ended.
        outcome: `reached` the lower target, `ended` before it, or `diverged`, which is also to learn nothing.
        lowest: the lowest validation loss.
        steps_to: steps to the first evaluation at or below each target; infinite where there is none.
    """

    method: str
    means: str
    rate: float
    seed: int
    steps: int
    outcome: str
    lowest: float
    steps_to: tuple[float, ...]


class Steadied:
    """A method's step on a model of its own, with one of the means.

    Raises:
        UsageError: as for `methods.prepare`.
    """

    def __init__(self, matched: Matched, spec: str, means: str) -> None:
        self.model = matched.copy_of_model()
        conditions = Conditions(optimizer="adam" if means == ADAM else "sgd")
        self.step: Step = methods.prepare(
            methods.find(spec), self.model, matched.loss, matched.seed, conditions
        )
        self.sizes = [parameter.numel() for parameter in self.model.parameters()]
        self.change = CHANGES[means]() if means in CHANGES else None
        self.average = matched.copy_of_model() if means == AVERAGED else None
        self.taken = 0

    @torch.no_grad()
    def __call__(self, batch: Batch, rate: float) -> None:
        """Take one step."""
        if self.change is None:
            self._plain(batch, rate)
        else:
            parameters = list(self.model.parameters())
            before = parameters_to_vector(parameters)
            self._plain(batch, rate)
            change = self.change(parameters_to_vector(parameters) - before, rate)
            for parameter, own in zip(parameters, (before + change).split(self.sizes), strict=True):
                parameter.copy_(own.view_as(parameter))  # in place: other memory would be another model's
        self.taken += 1
        if self.average is not None:
            share = (LATE + 1) / (self.taken + LATE)
            for mean, own in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(own, share)

    def _plain(self, batch: Batch, rate: float) -> None:
        with torch.enable_grad():
            self.step(batch, rate)

    @property
    def evaluated(self) -> torch.nn.Module:
        """The model whose loss counts."""
        return self.model if self.average is None else self.average


def train(matched: Matched, spec: str, means: str, rate: float, most: int) -> Run:
    """Train until the lower target, for at most `most` steps; given up if a quarter taught nothing."""
    steadied, at = Steadied(matched, spec, means), 0
    first, _ = evaluate(matched.model, matched.loss, matched.data)
    learned = LEARNED * min(first, math.log(matched.data.classes))
    grid, steps_to = Grid(max(1, most // EVALUATIONS)), [math.inf] * len(TARGETS)
    outcome, lowest = ENDED, math.inf
    while at < most and outcome == ENDED:
        batches = matched.order.batches(matched.data, at, min(grid.after(at), most - at))
        for batch in batches:
            steadied(batch, rate)
        at += len(batches)
        loss, _ = evaluate(steadied.evaluated, matched.loss, matched.data)
        lowest = min(lowest, loss)
        for number, target in enumerate(TARGETS):
            if loss <= target:
                steps_to[number] = min(steps_to[number], at)
        if not loss <= 10 * first or (at >= most / 4 and loss > learned):
            outcome = DIVERGED
        elif loss <= TARGETS[-1]:
            outcome = REACHED
    return Run(spec, means, rate, matched.seed, at, outcome, lowest, tuple(steps_to))


def search(matched: Sequence[Matched], spec: str, means: str, most: int) -> Iterator[Run]:
    """Train with rate after rate, from the largest, until two in a row are no sooner than the best."""
    best, no_sooner = (math.inf, math.inf), 0
    for rate in RATES:
        runs: list[Run] = []
        for own in matched:
            runs.append(train(own, spec, means, rate, most))
            yield runs[-1]
            if runs[-1].outcome == DIVERGED:  # the rate is too large, whatever others do
                break
        if runs[-1].outcome == DIVERGED:
            continue
        spent = sum(min(steps, 2 * most) for run in runs for steps in run.steps_to)
        found = spent, sum(run.lowest for run in runs)  # whoever reaches nothing is led by the loss
        best, no_sooner = (found, 0) if found < best else (best, no_sooner + 1)
        if no_sooner == PATIENCE:
            return


def step_seconds(matched: Matched, specs: Sequence[str]) -> dict[str, float]:
    """The median seconds of each method's plain step; the methods take turns."""
    steps = {spec: Steadied(matched, spec, NONE) for spec in specs}
    batches = matched.batches(PACED_STEPS)
    seconds: dict[str, list[float]] = {spec: [] for spec in specs}
    for batch in batches:
        for spec, step in steps.items():
            step(batch, 1e-6)  # the block's first step finds other data in the caches
            start = perf_counter()
            step(batch, 1e-6)
            step(batch, 1e-6)
            seconds[spec].append((perf_counter() - start) / 2)
    return {spec: median(own) for spec, own in seconds.items()}


def summary(runs: Sequence[Run], seconds: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each method and means: the largest rate borne, the best one, and the way to each target."""
    rows = []
    for spec, means in dict.fromkeys((run.method, run.means) for run in runs):
        own = [run for run in runs if (run.method, run.means) == (spec, means)]
        fallen = {run.rate for run in own if run.outcome == DIVERGED}
        borne = sorted({run.rate for run in own} - fallen)
        row: dict[str, Any] = {"method": spec, "means": means, "step_seconds": seconds[spec]}
        row["largest_rate"] = borne[-1] if borne else math.nan
        for number, target in enumerate(TARGETS):
            to = {rate: median(r.steps_to[number] for r in own if r.rate == rate) for rate in borne}
            steps, rate = min(((to[r], r) for r in borne if to[r] < math.inf), default=(math.inf, math.nan))
            row |= {f"rate_to_{target:g}": rate, f"steps_to_{target:g}": steps}
            row[f"seconds_to_{target:g}"] = steps * seconds[spec]
        rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Search for all methods and means; store after each of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/steadying"))
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="Of plain steps that a run has.")
    asked = parser.parse_args(arguments)
    size: dict[str, Any] = {"depths": (asked.depth,), "width": asked.width, "dataset": asked.dataset}
    (group,) = make_plan(Config(("mlp",), **size, threads=1, device="cpu")).groups
    matched = [build_matched(group, Config().data_dir, seed) for seed in range(1, asked.seeds + 1)]
    seconds = step_seconds(matched[0], METHODS)
    facts = {"command": command(), "targets": TARGETS, "seconds": asked.seconds, "seeds": asked.seeds}
    facts |= {"group": asdict(group), "environment": describe_environment("cpu", 1)}
    runs: list[Run] = []
    for means in MEANS:
        for spec in METHODS:
            runs += search(matched, spec, means, max(1, round(asked.seconds / seconds[spec])))
            rows = summary(runs, seconds)
            store_experiment(asked.out, "steadying", [_row(run) for run in runs], facts)
            store_experiment(asked.out, "steadying_best", rows, facts)
            print(", ".join(f"{name}: {value}" for name, value in rows[-1].items()), flush=True)


def _row(run: Run) -> dict[str, Any]:
    row = {name: value for name, value in asdict(run).items() if name != "steps_to"}
    return row | {f"steps_to_{t:g}": at for t, at in zip(TARGETS, run.steps_to, strict=True)}


if __name__ == "__main__":
    main()
