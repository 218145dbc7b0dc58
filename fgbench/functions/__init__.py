"""Test functions, minimised by a method's own step: the model's only parameter is the point."""

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
        value: gives the function's value, [], at a point, [n].
        start: gives the point where descent begins, [n] in float64, for n dimensions.
        minimum: gives the lowest value for n dimensions.
        minimizer: gives the point of that value, [n] in float64, for n dimensions.
        default_n: the number of dimensions unless another is asked for.
        summary: the formula, in one line.
        source: where the function and its start were published.
        least_n: the fewest dimensions that it is defined for.
        fixed_n: whether it is defined for `default_n` dimensions alone.
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
    """A function as a model: its one parameter is the point, its output the value there."""

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
    """The function as a model, a loss and a batch, which methods can train like any other.

    Args:
        function: the function to minimise.
        n: the number of dimensions.
        dtype: the dtype of the point.

    Returns:
        The model at the function's start, a loss that is the model's output, and an empty batch, which is
        not read.

    Raises:
        UsageError: the function does not have so many dimensions.
    """
    if function.fixed_n and n != function.default_n:
        raise UsageError(f"n = {n}: the function has exactly {function.default_n} dimensions.")
    if n < function.least_n:
        raise UsageError(f"n = {n}: the function has at least {function.least_n} dimensions.")
    nothing = torch.zeros(1, dtype=dtype)
    return Point(function, n, dtype), output_itself, (nothing, nothing)


def output_itself(output: Tensor, _: Tensor) -> Tensor:
    """The loss: the output, [], is the value already."""
    return output
