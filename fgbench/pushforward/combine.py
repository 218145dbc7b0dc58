"""Ways to make one gradient of k directional derivatives (Flügel et al. 2024, §3)."""

from __future__ import annotations

import torch
from torch import Tensor

from fgbench.pushforward.structures import Drawer, Tangents, cholesky

WAYS = ("mean", "sum", "projection")
SMALLEST_EIGENVALUE = 1e-6  # of the tangents' correlation matrix; below it they count as dependent
MOST_REDRAWS = 100
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
