"""Which reading of the first paper's MLP trains at its higher learning rate.

    python -m fgbench.experiments.readings --out results/readings

Baydin et al. 2022 train an MLP with two hidden layers of 1024 on MNIST at the rate 2e-4 · exp(−1e-4 i), with
batches of 64. How its weights begin, how pixels are scaled, and whether steps are clipped is open. Here it
begins as He et al. 2015 propose or by PyTorch's default, with pixels in [0, 1] or of mean 0 and variance 1,
with and without steps that are no longer than their running mean. `readings.csv` has a row for each
evaluation, `readings_ends.csv` one for each run, with its steps to the lowest loss of backprop on the same
reading, over backprop's own. A run ends early where its loss is ten times the first one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fgbench.datasets import Dataset
from fgbench.experiments.steadying import DIVERGED, ENDED, NONE, Steadied
from fgbench.measurement.environment import describe_environment
from fgbench.plan import Config, make_plan
from fgbench.plan.config import REFERENCE
from fgbench.running.matched import Matched, build_matched
from fgbench.store.experiment import command, store_experiment
from fgbench.training.loop import evaluate

METHODS = (REFERENCE, "forward")
HE, DEFAULT = "He", "PyTorch's default"
UNIT, NORMALISED = "in [0, 1]", "mean 0, variance 1"
CLIPPED = "clipped"
WEIGHTS, PIXELS, MEANS = (HE, DEFAULT), (UNIT, NORMALISED), (NONE, CLIPPED)
RATE, DECAY, BATCH = 2e-4, 1e-4, 64
EVALUATIONS = 40
FALLEN = 10.0  # times the first loss


@dataclass(frozen=True)
class Evaluated:
    """One evaluation: after so many steps of a method on a reading of the paper."""

    method: str
    weights: str
    pixels: str
    means: str
    seed: int
    iteration: int
    validation_loss: float
    validation_accuracy: float


def read(matched: Matched, weights: str, pixels: str) -> Matched:
    """The group with its weights and pixels as in a reading; the order of batches stays."""
    model = matched.copy_of_model()
    if weights == DEFAULT:
        torch.manual_seed(matched.seed)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    return replace(matched, model=model, data=in_unit(matched.data) if pixels == UNIT else matched.data)


def in_unit(data: Dataset) -> Dataset:
    """The data, of mean 0 and variance 1 as it is loaded, with the training samples' pixels in [0, 1]."""
    least, most = data.train_x.min(), data.train_x.max()
    train, held_out = ((x - least) / (most - least) for x in (data.train_x, data.validation_x))
    return replace(data, train_x=train, validation_x=held_out)


def train(matched: Matched, spec: str, means: str, steps: int) -> Iterator[tuple[int, float, float]]:
    """Give steps, validation loss and accuracy at each evaluation, until the last step or a fall."""
    steadied, every = Steadied(matched, spec, means), max(1, steps // EVALUATIONS)
    first, _ = evaluate(matched.model, matched.loss, matched.data)
    for start in range(0, steps, every):
        batches = matched.order.batches(matched.data, start, min(every, steps - start))
        for number, batch in enumerate(batches, start):
            steadied(batch, RATE * math.exp(-DECAY * number))
        loss, accuracy = evaluate(steadied.evaluated, matched.loss, matched.data)
        yield start + len(batches), loss, accuracy
        if not loss < FALLEN * first:
            return


def ends(points: Sequence[Evaluated], steps: int) -> list[dict[str, Any]]:
    """A row for each run: where it ended and how, its lowest loss, and its steps over backprop's."""
    runs: dict[tuple[Any, ...], list[Evaluated]] = {}
    for point in points:
        key = point.weights, point.pixels, point.means, point.seed, point.method
        runs.setdefault(key, []).append(point)
    return [
        {
            **{name: getattr(own[-1], name) for name in ("weights", "pixels", "means", "method", "seed")},
            "iterations": own[-1].iteration,
            "outcome": ENDED if own[-1].iteration == steps else DIVERGED,
            "lowest": min(point.validation_loss for point in own),
            "validation_accuracy": own[-1].validation_accuracy,
            "steps_ratio": _steps_ratio(own, runs[*key[:-1], REFERENCE]),
        }
        for key, own in runs.items()
    ]


def _steps_ratio(own: Sequence[Evaluated], over: Sequence[Evaluated]) -> float:
    """Steps to the lowest loss of the reference, over the reference's; infinite where it was not reached."""
    lowest = min(over, key=lambda point: point.validation_loss)
    reached = (point.iteration for point in own if point.validation_loss <= lowest.validation_loss)
    return next(reached, math.inf) / lowest.iteration


def main(arguments: Sequence[str] | None = None) -> None:
    """Train every method on every reading; store after each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/readings"))
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20_000)
    for name, known in (("weights", WEIGHTS), ("pixels", PIXELS), ("means", MEANS)):
        parser.add_argument(f"--{name}", nargs="+", choices=known, default=known, help="Of all these.")
    asked = parser.parse_args(arguments)
    size: dict[str, Any] = {"depths": (2,), "width": asked.width, "dataset": asked.dataset, "batch": BATCH}
    (group,) = make_plan(Config(("mlp",), **size, threads=1, device="cpu")).groups
    facts = {"command": command(), "steps": asked.steps, "rate": RATE, "decay": DECAY}
    facts |= {"group": asdict(group), "environment": describe_environment("cpu", 1)}
    points: list[Evaluated] = []
    for seed in range(1, asked.seeds + 1):
        matched = build_matched(group, Config().data_dir, seed)
        for weights, pixels, means, spec in product(asked.weights, asked.pixels, asked.means, METHODS):
            own = read(matched, weights, pixels)
            for at, loss, accuracy in train(own, spec, means, asked.steps):
                points.append(Evaluated(spec, weights, pixels, means, seed, at, loss, accuracy))
            store_experiment(asked.out, "readings", [asdict(point) for point in points], facts)
            store_experiment(asked.out, "readings_ends", ends(points, asked.steps), facts)
            print(points[-1], flush=True)


if __name__ == "__main__":
    main()
