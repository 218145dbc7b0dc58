"""Correctness before speed: a step is held against reverse mode before it is timed."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from fgbench.methods import PLAIN, Batch, Conditions, Loss, Method, Step, prepare, trainable
from fgbench.methods.steps.optimizer import PLAIN_SGD, make_optimizer, optimize
from fgbench.pushforward.precision import PrecisionsMet
from fgbench.training.randomness import OwnRandomness

# Largest error of an estimate as a share of it, by the lowest dtype met on the way; wrong code is off by
# shares of 1.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
TF32 = TOLERANCE[torch.float16]  # as many bits in a product's factors
# A tangent nearly orthogonal to the gradient leaves little but rounding: then another one decides.
TRIES = 3
REPLAYS = 2  # of a captured step that are held: the first may be right as what was captured
SAME_DIRECTION = 0.9999  # of two updates: a cosine that tangents drawn afresh do not have
SMALLEST = 1e-300  # instead of a division by zero


class WrongStepError(Exception):
    """A step whose loss or estimate is not what it must be; the message says by how much."""


def check_step(
    method: Method, model: nn.Module, loss: Loss, batch: Batch, seed: int, conditions: Conditions = PLAIN
) -> None:
    """Hold one step, exactly as it will be timed, against reverse mode at the same weights.

    The loss that it reports must be the loss, and what it does to the weights that of the estimate
    which `Step.expected` derives from the true gradient.

    Raises:
        WrongStepError: it is neither in any of a few tries, with other random numbers each.
    """
    errors = []
    for attempt in range(TRIES):
        error, tolerance = _error_of_step(method, model, loss, batch, seed + attempt, conditions)
        if error <= tolerance:
            return
        errors.append(error)
    raise WrongStepError(
        f"its loss or its update is off by a share of {min(errors):.2g} from what reverse mode gives; "
        f"at most {tolerance:g} is rounding. Not timed."
    )


def check_base(evaluate: Loss, model: nn.Module, loss: Loss, batches: Sequence[Batch], seed: int) -> None:
    """Hold the base as it will be timed against the loss, on a second batch too: a graph might repeat the
    first one's.

    Raises:
        WrongStepError: it gives another loss.
    """
    for x, y in batches[:REPLAYS]:
        with _same_masks(seed, (x, y)):
            value = evaluate(x, y)
        with _same_masks(seed, (x, y)), torch.no_grad():
            true = loss(copy.deepcopy(model)(x), y)
        error = abs(float(value) - float(true)) / max(abs(float(true)), SMALLEST)
        if not error <= _tolerances(x.device)[true.dtype]:
            raise WrongStepError(f"the base's loss is off by a share of {error:.2g}. Not timed.")


def _error_of_step(
    method: Method, model: nn.Module, loss: Loss, batch: Batch, seed: int, conditions: Conditions
) -> tuple[float, float]:
    """By what share it is off, and by what share it may be: the worst of a captured step's replays, or of a
    cycle of steps that differ in kind.
    """
    with PrecisionsMet() as precisions:
        true_loss, gradient = _reverse_mode(copy.deepcopy(model), loss, batch, seed)
    step = prepare(method, copy.deepcopy(model), loss, seed, conditions)
    step.get_ready(batch)  # of which kinds its steps are
    before = [p.detach().clone() for p in step.parameters]
    # An update as large as the weights: its rounding is then as small as theirs.
    size, slope = norm(before), norm(gradient)
    learning_rate = size / slope if size > 0 and slope > 0 else 1.0
    update, errors, estimates = _Update(before, conditions), [], []
    for _ in range(REPLAYS if conditions.captured else step.cycle):
        with torch.no_grad():
            for parameter, value in zip(step.parameters, before, strict=True):
                parameter.copy_(value)
        with _same_masks(seed, batch):
            value = step(batch, learning_rate)
        with _same_masks(seed, batch):
            estimates.append(step.expected(gradient, copy.deepcopy(model), batch))
        wanted = update.moves(estimates[-1], learning_rate, step.left_alone)
        moves = [
            new.detach().double() - old.double() for old, new in zip(before, step.parameters, strict=True)
        ]
        off = norm([a - b for a, b in zip(moves, wanted, strict=True)])
        errors.append(off / max(norm(wanted), SMALLEST))
        errors.append(abs(float(value) - true_loss) / max(abs(true_loss), SMALLEST))
    error = max(errors) if all(map(math.isfinite, errors)) else math.inf
    tolerance = max(precisions.loosest(_tolerances(batch[0].device)), step.tolerance)
    if conditions.captured and error <= tolerance:
        _check_draws(step, estimates)
    return error, tolerance


def _tolerances(device: torch.device) -> dict[torch.dtype, float]:
    """By dtype; a GPU may have been told to round the factors of float32 products to TF32."""
    rounded = device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return TOLERANCE | ({torch.float32: TF32} if rounded else {})


def _check_draws(step: Step, estimates: Sequence[Sequence[Tensor]]) -> None:
    """A captured step draws other tangents at each replay; one without random numbers has none to draw."""
    if not step.generators():
        return
    one, other = estimates
    along = sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))
    lengths = norm(one) * norm(other)
    if not lengths or abs(along) / lengths > SAME_DIRECTION:
        raise WrongStepError("its CUDA graph draws the same tangents at each replay. Not timed.")


class _Update:
    """What an optimiser does to the weights, an update after the other from the same weights."""

    def __init__(self, before: Sequence[Tensor], conditions: Conditions) -> None:
        self.before, self.optimizer = before, None
        if conditions.optimizer != PLAIN_SGD:
            self.after = [b.clone().requires_grad_() for b in before]
            self.optimizer = make_optimizer(Conditions(optimizer=conditions.optimizer), self.after)

    def moves(
        self, estimate: Sequence[Tensor], learning_rate: float, left_alone: frozenset[int]
    ) -> list[Tensor]:
        """By the estimate, in float64; the parameters at these places have none, and stay."""
        if self.optimizer is None:
            return [-learning_rate * e.double() for e in estimate]
        for index, (parameter, start) in enumerate(zip(self.after, self.before, strict=True)):
            parameter.data.copy_(start)
            own = estimate[index].detach().to(parameter.dtype)
            parameter.grad = None if index in left_alone else own
        optimize(self.optimizer, learning_rate)
        return [a.detach().double() - b.double() for a, b in zip(self.after, self.before, strict=True)]


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
