"""A small MLP on real digits, and how near a method's updates are to the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fgbench import architectures, datasets, methods
from fgbench.training.batches import BatchOrder
from fgbench.training.loop import evaluate
from tests.builders import cross_entropy, flat, reverse_gradient

DEPTH, WIDTH, BATCH, SEED = 2, 128, 64, 0


@dataclass(frozen=True)
class Run:
    """Losses before and after, and the cosines of each hidden layer's update with its gradient."""

    first_validation_loss: float
    validation_loss: float
    first_cosines: list[float]
    cosines: list[float]


def trained(spec: str, learning_rate: float, steps: int) -> Run:
    """Train from fixed seeds; cosines are those of the first step and of the last."""
    data = datasets.load("digits", Path("nowhere"), 360)
    torch.manual_seed(SEED)
    model = architectures.build("mlp", DEPTH, WIDTH, data.in_shape, data.classes).train()
    step = methods.find(spec).prepare(model, cross_entropy, SEED)
    losses, cosines = [evaluate(model, cross_entropy, data)[0]], []
    for index, batch in enumerate(BatchOrder(len(data.train_x), BATCH, SEED).batches(data, 0, steps)):
        if index in (0, steps - 1):
            gradient = reverse_gradient(model, batch)
        step(batch, learning_rate)
        if index in (0, steps - 1):
            pairs = list(zip(step.gradients, gradient, strict=True))
            cosines.append([cosine([a], [b]) for a, b in pairs[: 2 * DEPTH : 2]])
    losses.append(evaluate(model, cross_entropy, data)[0])
    return Run(*losses, *cosines)


def cosine(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Of the angle between two lists of tensors, each taken as one vector."""
    return float(torch.cosine_similarity(flat(a), flat(b), dim=0))
