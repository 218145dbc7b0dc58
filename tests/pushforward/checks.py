"""The one truth that every path is held to: the derivative along v is ⟨∇f, v⟩ of reverse mode, in float64."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fgbench import methods
from fgbench.methods import Step, trainable
from fgbench.pushforward.engine import Pushforward
from fgbench.pushforward.structures import Drawer, Tangents

TOLERANCE = 1e-9
STRUCTURES = ("gaussian", "rank-one")


def smooth(output: Any, target: Tensor) -> Tensor:
    """A loss without a rule, whatever the output: every entry counts, each differently."""
    tensors = output if isinstance(output, tuple) else (output,)
    total = torch.zeros((), dtype=torch.float64)
    for tensor in tensors:
        if tensor is not None:
            weights = torch.linspace(-1, 1, tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
            total = total + (weights * tensor + 0.1 * tensor.square()).sum()
    return total


def drawn(model: nn.Module, count: int, structure: str = "gaussian", seed: int = 0, **more: Any) -> Tangents:
    return Drawer(trainable(model), count, structure, seed, **more).draw()


def derivatives(
    pushforward: Pushforward, tangents: Tangents, batch: tuple[Tensor, Tensor], chunk: int = 0
) -> tuple[Tensor, Tensor]:
    """The loss and its derivatives along the tangents, with the random numbers of seed 0."""
    by_parameter = {trainable(pushforward.model)[name]: t for name, t in tangents.by_name.items()}
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    value, along_drawn = pushforward(batch, by_parameter, chunk)
    return value, tangents.directional(along_drawn)


def by_reverse_mode(
    model: nn.Module, loss: Callable[..., Tensor], batch: tuple[Tensor, Tensor], tangents: Tangents
) -> tuple[Tensor, Tensor]:
    model = copy.deepcopy(model)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    value = loss(model(batch[0]), batch[1])
    gradient = torch.autograd.grad(value, list(trainable(model).values()), materialize_grads=True)
    pairs = zip(gradient, tangents.full(), strict=True)
    return value.detach(), torch.stack([(v * g).reshape(len(v), -1).sum(1) for g, v in pairs]).sum(0)


def check(
    model: nn.Module,
    x: Tensor,
    *,
    loss: Callable[..., Tensor] = smooth,
    target: Tensor | None = None,
    count: int = 2,
    structures: tuple[str, ...] = STRUCTURES,
    tolerance: float = TOLERANCE,
    chunk: int = 0,
) -> Pushforward:
    """Loss and derivatives of each structure against reverse mode; gives the engine, for its fallbacks.

    The first of several structures comes again at the end, when the model's course has become a program, in
    which rules may write over values that nothing else reads.
    """
    model = model.double()
    batch = x, torch.zeros(len(x)) if target is None else target
    pushforward = Pushforward(model, loss)
    for structure in structures + structures[:1] * (len(structures) > 1):
        tangents = drawn(model, count, structure, seed=3)
        wanted_value, wanted = by_reverse_mode(model, loss, batch, tangents)
        value, found = derivatives(pushforward, tangents, batch, chunk)
        scale = max(float(wanted.norm()), 1e-6)
        off = float((found - wanted).norm()) / scale
        assert off <= tolerance, f"{structure}: derivatives are off by a share of {off:.2g}"
        assert abs(float(value - wanted_value)) <= tolerance * max(abs(float(wanted_value)), 1)
        assert not found.requires_grad
    return pushforward


def steps_are_right(
    spec: str,
    model: nn.Module,
    loss: Callable[..., Tensor] = F.cross_entropy,
    *,
    given: Sequence[tuple[Tensor, Tensor]],
) -> Step:
    """Take steps, each from the same weights, and compare each with reverse mode; give the method's step."""
    step = methods.prepare(methods.find(spec), copy.deepcopy(model), loss, 0)
    start = [p.detach().clone() for p in step.parameters]
    for number, batch in enumerate(given):
        with torch.no_grad():
            for parameter, value in zip(step.parameters, start, strict=True):
                parameter.copy_(value)
        reference = copy.deepcopy(model)
        wanted = loss(reference(batch[0]), batch[1])
        gradient = torch.autograd.grad(wanted, list(trainable(reference).values()), materialize_grads=True)
        found = step(batch, 1e-3)
        assert abs(float(found.detach() - wanted.detach())) < 1e-9, f"{spec}: the loss of batch {number}"
        estimate = step.expected(gradient, copy.deepcopy(model), batch)
        moved = [(s - p.detach()) / 1e-3 for s, p in zip(start, step.parameters, strict=True)]
        off = sum(float((m - e).square().sum()) for m, e in zip(moved, estimate, strict=True))
        size = sum(float(e.square().sum()) for e in estimate)
        assert off <= 1e-12 * size, (
            f"{spec}: the update of batch {number} is off by {(off / size) ** 0.5:.2g}"
        )
    return step
