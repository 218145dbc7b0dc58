"""Correctness before speed: a step is held against reverse mode before it is timed."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from fgbench.methods import Batch, Loss, Method, trainable
from fgbench.training.randomness import OwnRandomness

# Largest error of an estimate as a share of it, by dtype; wrong code is off by shares of 1.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.2}
# A tangent nearly orthogonal to the gradient leaves little but rounding: then another one decides.
TRIES = 3
SMALLEST = 1e-300  # instead of a division by zero


class WrongStepError(Exception):
    """A step whose loss or estimate is not what it must be; the message says by how much."""


def check_step(method: Method, model: nn.Module, loss: Loss, batch: Batch, seed: int) -> None:
    """Hold one step, exactly as it will be timed, against reverse mode at the same weights.

    The loss that it reports must be the loss, and its update that of the estimate which
    `Step.expected` derives from the true gradient.

    Raises:
        WrongStepError: it is neither in any of a few tries, with other random numbers each.
    """
    tolerance = TOLERANCE[next(model.parameters()).dtype]
    errors = []
    for attempt in range(TRIES):
        error = _error_of_step(method, model, loss, batch, seed + attempt)
        if error <= tolerance:
            return
        errors.append(error)
    raise WrongStepError(
        f"its loss or its update is off by a share of {min(errors):.2g} from what reverse mode gives; "
        f"at most {tolerance:g} is rounding. Not timed."
    )


def _error_of_step(method: Method, model: nn.Module, loss: Loss, batch: Batch, seed: int) -> float:
    true_loss, gradient = _reverse_mode(copy.deepcopy(model), loss, batch, seed)
    trained = copy.deepcopy(model)
    step = method.prepare(trained, loss, seed)
    before = [p.detach().clone() for p in step.parameters]
    # An update as large as the weights: its rounding is then as small as theirs.
    size, slope = norm(before), norm(gradient)
    learning_rate = size / slope if size > 0 and slope > 0 else 1.0
    with _same_masks(seed, batch):
        value = step(batch, learning_rate)
    off_squared = expected_squared = 0.0
    for old, new, expected in zip(before, step.parameters, step.expected(gradient), strict=True):
        estimate = (old.double() - new.detach().double()) / learning_rate
        off_squared += float((estimate - expected.double()).square().sum())
        expected_squared += float(expected.double().square().sum())
    error = max(
        math.sqrt(off_squared / max(expected_squared, SMALLEST)),
        abs(float(value) - true_loss) / max(abs(true_loss), SMALLEST),
    )
    return error if math.isfinite(error) else math.inf


def _reverse_mode(model: nn.Module, loss: Loss, batch: Batch, seed: int) -> tuple[float, list[Tensor]]:
    with _same_masks(seed, batch):
        value = loss(model(batch[0]), batch[1])
    parameters = list(trainable(model).values())
    gradient = torch.autograd.grad(value, parameters, materialize_grads=True)
    return float(value.detach()), list(gradient)


def _same_masks(seed: int, batch: Batch) -> AbstractContextManager[None]:
    """Dropout, where there is any, drops the same units; the caller's random state stays its own."""
    return OwnRandomness(seed, batch[0].device).in_force()


def norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm over all of them, summed in float64."""
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))
