"""The theory of a method's estimates: their expected length and angle to the gradient.

Sources: Baydin et al. 2022 and Shukla & Shin 2023 (arXiv 2310.14168) for independent entries, Ren et al.
2023 for factors, Flügel et al. 2024 (§4.1) for projections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fgbench.measurement.quality import Slope, Theory
from fgbench.methods.steps.options import ForwardOptions, LayerOptions

ROTATED = ("gaussian", "sphere", "orthonormal")  # all directions are equally likely


EXACT = Theory(1.0, 1.0)


def of_independent(entries: str, slopes: Sequence[Slope]) -> Theory:
    """For one tangent with independent entries; the second moment is n + 2 for N(0, 1), n for ±1."""
    n = sum(slope.size for slope in slopes)
    return Theory(n + 2, _angle(1, n)) if entries == "gaussian" else Theory(n)


def of_forward(options: ForwardOptions, slopes: Sequence[Slope]) -> Theory:
    """For forward gradients with these options."""
    n = sum(slope.size for slope in slopes)
    if options.clip or options.structure in ("activity", "fixed-angle"):
        return Theory()
    if options.layers == "one":
        signs = options.structure == "rademacher" or (
            options.structure == "rank-one" and options.entries == "rademacher"
        )
        return of_one_layer(options, slopes) if signs and options.tangents == 1 else Theory()
    spanning = options.combine == "projection" or options.structure == "orthonormal"
    k = min(options.tangents, n) if spanning else options.tangents
    rotated = options.structure in ROTATED
    along_one = k == 1 or options.combine == "projection" or options.structure == "orthonormal"
    cosine = _angle(k, n) if rotated and along_one else None
    if options.scale == "variance":
        return Theory(1.0, cosine)
    if options.combine == "projection":
        even = rotated or options.structure == "rademacher"  # all entries are alike
        return Theory(k / n if even else None, cosine)
    share = 1 if options.combine == "mean" else k  # a sum is k times the mean
    if options.structure == "orthonormal":
        return Theory(share**2 * n / k, cosine)
    return Theory(share**2 * (_single(options, slopes) + k - 1) / k, cosine)


def _single(options: ForwardOptions, slopes: Sequence[Slope]) -> float:
    """The second moment with one tangent, Σ_l (‖∇_l f‖²/‖∇f‖²) (M_l + n − n_l), M_l for parameter l alone."""
    n = sum(slope.size for slope in slopes)
    if options.structure == "gaussian":
        return n + 2
    if options.structure == "rank-one" and options.entries == "gaussian":
        return sum(slope.share * (_of_factors(slope.shape) + n - slope.size) for slope in slopes)
    return n


def _of_factors(shape: Sequence[int]) -> int:
    """The second moment (m + 2)(n + 2) of u wᵀ with Gaussian u and w; n + 2 for a vector."""
    size = math.prod(shape)
    if len(shape) < 2 or shape[0] == 1:
        return size + 2
    return (shape[0] + 2) * (size // shape[0] + 2)


def of_one_layer(options: LayerOptions, slopes: Sequence[Slope]) -> Theory:
    """For one tangent of ±1 in a layer drawn with p in proportion to its size; the second moment is n.

    Σ_l n_l ‖∇_l f‖² / p_l is then n ‖∇f‖², for any sizes of layers.
    """
    known = options.sampling == "size" and not options.bound
    return Theory(sum(slope.size for slope in slopes) if known else None)


def _angle(k: int, n: int) -> float:
    """The mean cosine of a vector in Rⁿ and its projection on k random directions, χ̄_k / χ̄_n."""
    return math.exp(_log_chi(k) - _log_chi(n))


def _log_chi(m: int) -> float:
    return math.lgamma((m + 1) / 2) - math.lgamma(m / 2)
