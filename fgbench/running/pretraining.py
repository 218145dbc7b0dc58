"""Pretraining: a model trained with backprop, for every method of a later run to begin from."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgbench.plan import REFERENCE, Config, make_plan
from fgbench.running.matched import Matched, build_matched
from fgbench.running.trainees import Protocol, trainee
from fgbench.training.checkpoint import save
from fgbench.training.loop import Budget, Point, take_turns

DECAY = 3.0  # the learning rate ends at exp(-3), a twentieth, of what it began with
EVALUATIONS = 10


@dataclass
class Pretraining:
    """A model that is being pretrained; `facts` are stored in its file beside the weights."""

    matched: Matched
    steps: int
    facts: dict[str, Any]

    def points(self, rate: float) -> Iterator[Point]:
        """Train, and give each evaluation."""
        every = math.ceil(self.steps / EVALUATIONS)
        protocol = Protocol(Budget(math.inf, self.steps), DECAY / self.steps, every, every)
        self.trainee = trainee(self.matched, REFERENCE, rate, protocol)
        self.trainee.warm_up()
        turns = take_turns({REFERENCE: self.trainee}, protocol.grid, math.inf, random.Random(0))
        for _, point in turns:
            if isinstance(point, Exception):
                raise point
            self.facts |= {"steps": point.iteration, "validation_loss": point.validation_loss}
            yield point

    def save(self, path: Path) -> str:
        """Write the trained weights to a file; gives their hash.

        Raises:
            UsageError: the file cannot be written.
        """
        return save(self.trainee.model, path, self.facts)


def begin(config: Config, seed: int, steps: int) -> Pretraining:
    """A model of the config's first group, at its initial weights.

    Raises:
        UsageError: as `make_plan`.
    """
    plan = make_plan(config)
    group = plan.groups[0]
    matched = build_matched(group, config.data_dir, seed)
    facts = {"arch": group.arch, "depth": group.depth, "width": group.width, "dataset": group.dataset}
    return Pretraining(matched, steps, {**facts, "data": plan.data, "seed": seed})
