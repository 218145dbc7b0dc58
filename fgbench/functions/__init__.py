"""Test functions: minimised by a method's own step, the point being all that a model has to train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.methods import Batch, Loss
from fgbench.specs import registry


@dataclass(frozen=True)
class Function:
    """A function to minimise.

    Attributes:
        value: the point [n] → the function there, [].
        start: n → where descent begins, [n] in float64.
        minimum: n → the lowest value.
        minimizer: n → where that is, [n] in float64.
        default_n: how many dimensions where nothing is asked for.
        summary: its formula, in one line.
        source: the paper whose start it is.
        least_n: below it there is no such function.
        fixed_n: it has `default_n` dimensions and no others.
    """

    value: Callable[[Tensor], Tensor]
    start: Callable[[int], Tensor]
    minimum: Callable[[int], float]
    minimizer: Callable[[int], Tensor]
    default_n: int
    summary: str
    source: str
    least_n: int = 1
    fixed_n: bool = False


class Point(nn.Module):
    """The model of a function: its one parameter is the point, its output the value there."""

    def __init__(self, function: Function, n: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.x = nn.Parameter(function.start(n).to(dtype))
        self.value = function.value

    def forward(self, _: Tensor) -> Tensor:
        """The value, [], whatever the input."""
        return self.value(self.x)


def find(name: str) -> Function:
    """A registered function.

    Raises:
        UsageError: there is no such function.
    """
    return registry.find("functions", name)


def as_problem(function: Function, n: int, dtype: torch.dtype = torch.float64) -> tuple[Point, Loss, Batch]:
    """A model at the function's start, a loss and a batch, for `Method.prepare` and its step as they are.

    Args:
        function: to minimise.
        n: dimensions.
        dtype: of the point.

    Returns:
        The model, the loss that passes its output on, and a batch of which nothing is read.

    Raises:
        UsageError: the function does not have so many dimensions.
    """
    if function.fixed_n and n != function.default_n:
        raise UsageError(f"n {n}: the function has {function.default_n} dimensions.")
    if n < function.least_n:
        raise UsageError(f"n {n}: the function has at least {function.least_n} dimensions.")
    nothing = torch.zeros(1, dtype=dtype)
    return Point(function, n, dtype), output_itself, (nothing, nothing)


def output_itself(output: Tensor, _: Tensor) -> Tensor:
    """The loss: the output, [], is the value already."""
    return output
