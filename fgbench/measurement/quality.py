"""What an estimate of a gradient is worth: its angle to the gradient, its length, what it varies by.

With g the estimate of a step, ∇f the gradient of the same batch and ∇F that of a large one: the cosines,
the second moment E‖g‖²/‖∇f‖², and how far g goes along the gradient, E⟨g, ∇f⟩/‖∇f‖², which is 1 for every
unbiased estimate. All of them over all parameters, and over those of each layer alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fgbench.measurement.steps_ratio import Mean

ALL = "all"  # stands where a layer's name does in figures of all parameters together
ROUNDING = 1e-6  # of the signal: less is no noise
NOT_FINITE, ZERO = "not finite", "zero gradient"


@dataclass(frozen=True)
class Slope:
    """A parameter as theory sees it.

    Attributes:
        shape: its dimensions.
        share: of ‖∇f‖² that is its own.
    """

    shape: Sequence[int]
    share: float

    @property
    def size(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Theory:
    """E‖g‖²/‖∇f‖² and the mean cosine of g and ∇f; None where there is no closed form."""

    second_moment: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class Quality:
    """What the estimates of some draws are worth, over all parameters or over a layer's.

    Attributes:
        draws: how many.
        cosine: with the gradient of the same batch.
        cosine_large: with that of the large batch.
        second_moment: ‖g‖²/‖∇f‖².
        second_moment_large: ‖g‖²/‖∇F‖².
        along: ⟨g, ∇f⟩/‖∇f‖².
        along_large: ⟨g, ∇F⟩/‖∇F‖².
        status: `ok`; `zero gradient` of the batch in some draw, or `not finite`: a figure that either would
            enter is missing then.
    """

    draws: int
    cosine: Mean
    cosine_large: Mean
    second_moment: Mean
    second_moment_large: Mean
    along: Mean
    along_large: Mean
    status: str = "ok"

    @property
    def signal_to_noise(self) -> float:
        """The squared mean along the gradient over the mean square of all that is not that; NaN without."""
        signal = self.along.value**2
        noise = self.second_moment.value - signal
        if math.isnan(noise):
            return math.nan
        return signal / noise if noise > ROUNDING * signal else math.inf


@dataclass
class Draws:
    """Inner products of estimates and gradients, a draw after the other, kept on the device.

    Attributes:
        layers: the places of each layer's parameters, by its name.
    """

    layers: Mapping[str, Sequence[int]]
    products: list[Tensor] = field(default_factory=list)

    def add(self, estimate: Sequence[Tensor], gradient: Sequence[Tensor], large: Sequence[Tensor]) -> None:
        """One draw: the estimate, the gradient of its batch and that of the large one, by parameter."""
        rows = [
            torch.stack([g @ g, g @ f, g @ whole, f @ f, whole @ whole])
            for g, f, whole in (
                (_flat(g), _flat(f), _flat(w)) for g, f, w in zip(estimate, gradient, large, strict=True)
            )
        ]
        self.products.append(torch.stack(rows))

    def by_layer(self) -> dict[str, Quality]:
        """Over `all` parameters, and of each layer."""
        if not self.products:
            return {}
        table = torch.stack(self.products).double().cpu()  # [m, parameters, products]
        every = {ALL: range(table.shape[1]), **self.layers}
        return {name: _quality(table[:, list(places)].sum(1)) for name, places in every.items()}

    def shares(self) -> list[float]:
        """Of each parameter in ‖∇f‖², the mean over draws; NaN where no gradient has a length."""
        squares = torch.stack(self.products)[:, :, 3].double().cpu()
        return [float(s) for s in (squares / squares.sum(1, keepdim=True)).mean(0)]


def _flat(tensor: Tensor) -> Tensor:
    """A vector in float32 at least."""
    flat = tensor.detach().reshape(-1)
    return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()


def _quality(products: Tensor) -> Quality:
    """Of sums over parameters, [m, products]."""
    gg, gf, gw, ff, ww = products.unbind(1)
    status = ZERO if bool((ff == 0).any()) else "ok"
    if not bool(products.isfinite().all()):
        status = NOT_FINITE
    return Quality(
        len(products),
        _mean(_cosine(gf, gg, ff)),
        _mean(_cosine(gw, gg, ww)),
        _mean(gg / ff),
        _mean(gg / ww),
        _mean(gf / ff),
        _mean(gw / ww),
        status,
    )


def _mean(values: Tensor) -> Mean:
    """Of one value a draw, [m]; NaN where one is not finite."""
    if not len(values) or not bool(values.isfinite().all()):
        return Mean(math.nan)
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(float(values.mean()), error)


def _cosine(along: Tensor, squares: Tensor, gradient: Tensor) -> Tensor:
    """0 of an estimate without length, as one of another layer has in this one; NaN without a gradient."""
    cosine = along / (squares * gradient).sqrt()
    return torch.where((squares == 0) & (gradient > 0), torch.zeros_like(cosine), cosine)
