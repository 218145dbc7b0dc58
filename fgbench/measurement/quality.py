"""The quality of gradient estimates: their angle to the gradient, their length and their noise.

Let g be a step's estimate, ∇f the gradient of the same batch and ∇F that of a large batch. The figures are
the cosines of g with both, the second moment E‖g‖²/‖∇f‖², and the component along the gradient,
E⟨g, ∇f⟩/‖∇f‖², which is 1 for every unbiased estimate. Each is computed over all parameters, and for each
layer alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fgbench.measurement.steps_ratio import Mean

ALL = "all"  # stands in place of a layer's name for all parameters together
ROUNDING = 1e-6  # noise below this share of the signal is rounding
NOT_FINITE, ZERO = "not finite", "zero gradient"


@dataclass(frozen=True)
class Slope:
    """What theory needs to know of a parameter.

    Attributes:
        shape: its dimensions.
        share: its share of ‖∇f‖².
    """

    shape: Sequence[int]
    share: float

    @property
    def size(self) -> int:
        """How many entries it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Theory:
    """The expected E‖g‖²/‖∇f‖² and mean cosine of g and ∇f; None where there is no closed form."""

    second_moment: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class Quality:
    """Means over draws of the figures of estimates, over all parameters or over those of a layer.

    Attributes:
        draws: how many draws there are.
        cosine: cosine with the gradient of the same batch.
        cosine_large: cosine with the gradient of the large batch.
        second_moment: ‖g‖²/‖∇f‖².
        second_moment_large: ‖g‖²/‖∇F‖².
        along: ⟨g, ∇f⟩/‖∇f‖².
        along_large: ⟨g, ∇F⟩/‖∇F‖².
        status: `ok`; `zero gradient` if the batch's gradient was zero in some draw; `not finite` if a number
            was not. A figure that cannot be computed then is NaN.
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
        """Signal over noise: the squared mean of `along`, over the second moment less that; may be NaN."""
        signal = self.along.value**2
        noise = self.second_moment.value - signal
        if math.isnan(noise):
            return math.nan
        return signal / noise if noise > ROUNDING * signal else math.inf


@dataclass
class Draws:
    """Inner products of estimates and gradients for each draw, kept on the device.

    Attributes:
        layers: by layer name, the positions of its parameters among all parameters.
        products: by draw, ⟨g, g⟩, ⟨g, ∇f⟩, ⟨g, ∇F⟩, ⟨∇f, ∇f⟩ and ⟨∇F, ∇F⟩ of each parameter, [parameters, 5].
    """

    layers: Mapping[str, Sequence[int]]
    products: list[Tensor] = field(default_factory=list)

    def add(self, estimate: Sequence[Tensor], gradient: Sequence[Tensor], large: Sequence[Tensor]) -> None:
        """Add a draw: the estimate, the gradient of its batch, and that of the large batch, by parameter."""
        rows = [
            torch.stack([g @ g, g @ f, g @ whole, f @ f, whole @ whole])
            for g, f, whole in (
                (_flat(g), _flat(f), _flat(w)) for g, f, w in zip(estimate, gradient, large, strict=True)
            )
        ]
        self.products.append(torch.stack(rows))

    def by_layer(self) -> dict[str, Quality]:
        """The figures over `all` parameters and of each layer, by name; empty without a draw."""
        if not self.products:
            return {}
        table = torch.stack(self.products).double().cpu()  # [m, parameters, products]
        every = {ALL: range(table.shape[1]), **self.layers}
        return {name: _quality(table[:, list(places)].sum(1)) for name, places in every.items()}

    def shares(self) -> list[float]:
        """Each parameter's share of ‖∇f‖², mean over draws; NaN where a gradient is zero."""
        squares = torch.stack(self.products)[:, :, 3].double().cpu()
        return [float(s) for s in (squares / squares.sum(1, keepdim=True)).mean(0)]


def _flat(tensor: Tensor) -> Tensor:
    """The tensor as a vector, in float32 at least."""
    flat = tensor.detach().reshape(-1)
    return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()


def _quality(products: Tensor) -> Quality:
    """The figures from inner products that are summed over parameters, [draws, 5]."""
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
    """The mean over draws, [draws], with its standard error; NaN where a value is not finite."""
    if not len(values) or not bool(values.isfinite().all()):
        return Mean(math.nan)
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(float(values.mean()), error)


def _cosine(along: Tensor, squares: Tensor, gradient: Tensor) -> Tensor:
    """The cosine by draw: 0 for an estimate of length zero, as of a layer not perturbed; NaN without ∇f."""
    cosine = along / (squares * gradient).sqrt()
    return torch.where((squares == 0) & (gradient > 0), torch.zeros_like(cosine), cosine)
