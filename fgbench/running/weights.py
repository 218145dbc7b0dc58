"""Keep weights at a few points of training, untimed, for the phases that come after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fgbench.running.snapshot import store_if_possible
from fgbench.training.loop import Budget, Trainee

MARKS = (0.1, 0.3, 1.0)  # shares of a job's budget; closer at the start, where the loss falls fastest


@dataclass(frozen=True)
class Weights:
    """A method's model at a point of its training.

    Attributes:
        method: the method that trained it.
        iteration: steps taken so far.
        model: the model's `state_dict`.
        step: what else the method's step has learnt, as `Step.state` gives it.
    """

    method: str
    iteration: int
    model: dict[str, Any]
    step: dict[str, Any]


@dataclass
class KeptWeights:
    """A folder for weights at these points of the trainees' training.

    Attributes:
        folder: the folder of the files; None keeps nothing.
        passed: how many marks of its budget each trainee has passed.
        numbers: the trainees' numbers, which their files are named by.
    """

    folder: Path | None
    passed: dict[str, int] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def begin(self, trainees: Mapping[str, Trainee], budget: Budget) -> None:
        """Begin where the trainees are now; an earlier worker has kept the weights before that."""
        self.passed = {name: _marks(trainee, budget) for name, trainee in trainees.items()}
        self.numbers = {name: number for number, name in enumerate(trainees)}

    def keep(self, trainees: Mapping[str, Trainee], alive: Sequence[str], budget: Budget) -> None:
        """Keep the weights of trainees that have passed a mark or ended since the last turn."""
        if self.folder is None:
            return
        for name, trainee in trainees.items():
            passed = _marks(trainee, budget) if name in alive else len(MARKS)
            if passed > self.passed[name]:
                file = f"{self.numbers[name]}-{passed}.pt"
                self._store(file, Weights(name, trainee.iteration, *_state(trainee)))
            self.passed[name] = passed

    def _store(self, name: str, weights: Weights) -> None:
        assert self.folder is not None
        store_if_possible(vars(weights), self.folder / name)

    def files(self) -> list[Path]:
        """The files of all kept weights, by method and in order of training."""
        found = self.folder.glob("[0-9]*-[0-9]*.pt") if self.folder else ()
        return sorted(found, key=lambda file: tuple(map(int, file.stem.split("-"))))


def load_weights(file: Path, device: torch.device) -> Weights:
    """Load a file of kept weights onto a device."""
    return Weights(**torch.load(file, map_location=device, weights_only=True))


def _marks(trainee: Trainee, budget: Budget) -> int:
    spent = budget.spent(trainee.train_seconds, trainee.iteration, trainee.most_steps)
    return sum(spent >= mark for mark in MARKS)


def _state(trainee: Trainee) -> tuple[dict[str, Any], dict[str, Any]]:
    return trainee.model.state_dict(), trainee.step.state()
