"""Tangents of a parameter, k at a time; those that have factors are kept as factors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class Tangent(ABC):
    """k tangents of one parameter."""

    count: int

    @abstractmethod
    def full(self) -> Tensor:
        """All entries, [k, *shape]."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Tangent:
        """The tangents from `start` up to, but without, `stop`."""

    @abstractmethod
    def add_to(self, parameter: Tensor, coefficients: Tensor) -> None:
        """Add Σ coefficients[i] · tangent i in place; coefficients: [k]."""

    def turned(self) -> Tangent:
        """The tangents of the transposed parameter, a matrix."""
        return Full(self.full().transpose(1, 2))

    def gram(self) -> Tensor:
        """The tangents' inner products, [k, k] in float64."""
        rows = self.full().reshape(self.count, -1).double()
        return rows @ rows.t()


@dataclass(frozen=True)
class Full(Tangent):
    """Tangents stored entry by entry.

    Attributes:
        entries: [k, *shape].
    """

    entries: Tensor

    @property
    def count(self) -> int:  # type: ignore[override]
        """k."""
        return self.entries.shape[0]

    def full(self) -> Tensor:
        """The stored entries."""
        return self.entries

    def part(self, start: int, stop: int) -> Full:
        """A view of some of the tangents."""
        return Full(self.entries[start:stop])

    def add_to(self, parameter: Tensor, coefficients: Tensor) -> None:
        """As of `Tangent`; takes one pass over the parameter, whatever k is."""
        add_full(parameter, self.entries, coefficients)


def add_full(parameter: Tensor, entries: Tensor, coefficients: Tensor) -> None:
    """parameter += Σ coefficients[i] · entries[i], in place."""
    coefficients = coefficients.to(parameter.dtype)
    if len(entries) == 1:
        parameter.addcmul_(entries[0], coefficients[0])
    elif parameter.is_contiguous():
        parameter.view(-1).addmv_(entries.reshape(len(entries), -1).t(), coefficients)
    else:
        parameter.add_(torch.tensordot(coefficients, entries, dims=1))


@dataclass(frozen=True)
class Redrawn(Tangent):
    """Tangents that are drawn from their seed whenever they are needed, and not stored.

    Attributes:
        draw: gives the same entries, [K, *shape], at every call.
        count: k, how many of the K drawn ones this is.
        start, stop: which of them.
    """

    draw: Callable[[], Tensor]
    count: int
    start: int = 0
    stop: int | None = None

    def full(self) -> Tensor:
        """The entries, drawn anew."""
        return self.draw()[self.start : self.stop]

    def part(self, start: int, stop: int) -> Redrawn:
        """Some of the tangents; the others are still drawn with them, and dropped."""
        return Redrawn(self.draw, stop - start, self.start + start, self.start + stop)

    def add_to(self, parameter: Tensor, coefficients: Tensor) -> None:
        """As of `Tangent`; the entries are drawn for it and dropped afterwards."""
        add_full(parameter, self.full(), coefficients)


@dataclass(frozen=True)
class RankOne(Tangent):
    """Tangents V = u wᵀ, kept as their factors; for a convolution, output channels ⊗ all the rest.

    Attributes:
        left: u, [k, m], with m the first dimension of the parameter.
        right: w, [k, *rest].
    """

    left: Tensor
    right: Tensor

    @property
    def count(self) -> int:  # type: ignore[override]
        """k."""
        return self.left.shape[0]

    def full(self) -> Tensor:
        """The products, [k, m, *rest]."""
        return torch.einsum("km,k...->km...", self.left, self.right)

    def part(self, start: int, stop: int) -> RankOne:
        """Views of some of the tangents' factors."""
        return RankOne(self.left[start:stop], self.right[start:stop])

    def add_to(self, parameter: Tensor, coefficients: Tensor) -> None:
        """As of `Tangent`: a rank-k update of the parameter, seen as a matrix."""
        scaled = self.left * coefficients.to(self.left.dtype).unsqueeze(1)
        if len(scaled) == 1:
            column = scaled[0].view(-1, *[1] * (parameter.dim() - 1))
            parameter.addcmul_(column, self.right[0])
        elif parameter.is_contiguous():
            parameter.view(parameter.shape[0], -1).addmm_(scaled.t(), self.right.flatten(1))
        else:
            parameter.add_((scaled.t() @ self.right.flatten(1)).view_as(parameter))

    def turned(self) -> RankOne:
        """The tangents of the transposed parameter: the factors change places."""
        return RankOne(self.right, self.left)

    def gram(self) -> Tensor:
        """As of `Tangent`: ⟨u_i, u_j⟩⟨w_i, w_j⟩, without the full entries."""
        left, right = self.left.double(), self.right.flatten(1).double()
        return (left @ left.t()) * (right @ right.t())
