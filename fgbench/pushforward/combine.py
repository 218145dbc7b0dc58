"""Ways to make one gradient of k directional derivatives (Flügel et al. 2024, §3)."""

from __future__ import annotations

import torch
from torch import Tensor

from fgbench.pushforward.structures import Drawer, Tangents, cholesky

WAYS = ("mean", "sum", "projection")
SMALLEST_EIGENVALUE = 1e-6  # of the tangents' correlation matrix; below it they count as dependent
MOST_REDRAWS = 100
RIDGE = 8  # times the rounding of derivatives, and its square of that of the factor of k correlations
# Dependent tangents are likely only where a tangent has hardly more than k independent numbers.
ROOM_PER_TANGENT, ROOM = 4, 64


def coefficients(way: str, derivatives: Tensor, tangents: Tangents) -> Tensor:
    """c, [k], such that the estimate is Σ c_i v_i.

    `projection` is FROG: P_U(∇f) = B (BᵀB)⁻¹ Bᵀ∇f over all parameters together, with Bᵀ∇f the
    derivatives, [k].
    """
    if way == "mean" and len(derivatives) > 1:
        return derivatives / len(derivatives)
    if way in ("mean", "sum"):
        return derivatives
    gram = tangents.gram()
    # The Gram matrix is scaled to correlations, so that lengths do not affect the solve's accuracy.
    scale = gram.diagonal().rsqrt()
    factor = cholesky(scale.unsqueeze(1) * gram * scale)
    solved = torch.cholesky_solve((scale * derivatives.double()).unsqueeze(1), factor).squeeze(1)
    return (scale * solved).to(derivatives.dtype)


def of_samples(way: str, derivatives: Tensor, gram: Tensor | None) -> Tensor:
    """c, [k, B], such that each sample's estimate is Σ c_i v_i, from its derivatives, [k, B].

    For `projection` there are the tangents' inner products, as `onto_spans` takes them.
    """
    if gram is not None:
        return onto_spans(derivatives, gram)
    return derivatives / len(derivatives) if way == "mean" else derivatives


def onto_spans(derivatives: Tensor, gram: Tensor) -> Tensor:
    """c, [k, B], such that Σ c_i v_i is the projection of each sample's gradient on the span of its tangents.

    Tangents of few numbers may depend on each other, as may more than there are numbers: their correlations
    are then singular, and a ridge of the derivatives' rounding gives the projection all the same.

    Args:
        derivatives: ⟨∇f, v_i⟩ of each sample, [k, B].
        gram: inner products in float64, [B, k, k] of each sample's own tangents, or [1, k, k].
    """
    squares = gram.diagonal(dim1=1, dim2=2).unsqueeze(2)
    scale = squares.rsqrt().masked_fill(squares == 0, 0)  # a tangent of zeros spans nothing
    correlations = scale * gram * scale.mT
    rounding = torch.finfo(torch.promote_types(derivatives.dtype, torch.float32)).eps
    ridge = max(RIDGE * rounding, RIDGE**2 * len(derivatives) * torch.finfo(torch.float64).eps)
    correlations.diagonal(dim1=1, dim2=2).add_(ridge)
    own = len(gram) > 1
    along = derivatives.double().t().unsqueeze(2) if own else derivatives.double().unsqueeze(0)
    found = scale * torch.cholesky_solve(scale * along, cholesky(correlations))
    return (found.squeeze(2).t() if own else found[0]).to(derivatives.dtype)


def draw_independent(drawer: Drawer) -> Tangents:
    """Draw linearly independent tangents: they are drawn again while they are dependent.

    Dependence is tested, which waits for the device, only where a tangent has hardly more than k
    independent numbers; elsewhere its probability is below 2⁻⁶⁰.

    Raises:
        ValueError: 100 draws were all dependent.
    """
    tangents = drawer.draw()
    if drawer.freedom >= ROOM_PER_TANGENT * drawer.count + ROOM:
        return tangents
    for _ in range(MOST_REDRAWS):
        if _independent(tangents.gram()):
            return tangents
        tangents = drawer.draw()
    raise ValueError(f"no {drawer.count} independent tangents of {drawer.size} entries were found")


def _independent(gram: Tensor) -> bool:
    scale = gram.diagonal().rsqrt()
    return float(torch.linalg.eigvalsh(scale.unsqueeze(1) * gram * scale)[0]) > SMALLEST_EIGENVALUE
