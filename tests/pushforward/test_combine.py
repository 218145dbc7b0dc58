"""Combinations of k directional derivatives against dense float64 algebra and the paper's closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fgbench.pushforward.combine import coefficients, draw_independent, onto_spans
from fgbench.pushforward.structures import Drawer, Tangents
from fgbench.pushforward.tangents import Full


def parameters(*sizes: int) -> dict[str, Tensor]:
    return {f"p{i}": torch.zeros(n, 2).double() for i, n in enumerate(sizes)}


def flat(tangents: Tangents) -> Tensor:
    return torch.cat([t.flatten(1) for t in tangents.full()], 1)


def estimate(way: str, gradient: Tensor, tangents: Tangents) -> Tensor:
    v = flat(tangents)
    return coefficients(way, v @ gradient, tangents) @ v


def chi(m: int) -> float:
    """Mean of the χ distribution."""
    return math.sqrt(2) * math.exp(math.lgamma((m + 1) / 2) - math.lgamma(m / 2))


@pytest.mark.parametrize(
    "structure", ["gaussian", "rademacher", "rank-one", "sphere", "orthonormal", "fixed-angle"]
)
def test_projection_is_the_dense_one_over_all_parameters_together(structure):
    """Not layer by layer: each layer's own projection is another vector."""
    tangents = draw_independent(Drawer(parameters(5, 3, 4), 6, structure, 1))
    gradient = torch.linspace(-1, 2, 24).double().sin()
    basis, _ = torch.linalg.qr(flat(tangents).t())
    wanted = basis @ (basis.t() @ gradient)
    assert float((estimate("projection", gradient, tangents) - wanted).norm() / wanted.norm()) < 1e-12
    by_layer = []
    start = 0
    for layer in tangents.full():
        rows = layer.flatten(1)
        q, _ = torch.linalg.qr(rows.t())
        by_layer.append(q @ (q.t() @ gradient[start : start + rows.shape[1]]))
        start += rows.shape[1]
    assert float((torch.cat(by_layer) - wanted).norm() / wanted.norm()) > 0.1


@pytest.mark.parametrize("apart", [1e-1, 1e-2, 2e-3])
def test_projection_stays_accurate_where_tangents_nearly_depend(apart):
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(3, 30, generator=generator, dtype=torch.float64) * torch.tensor([[1e3], [1.0], [1e-3]])
    v = torch.cat([v, v[:1] / 1e3 + apart * torch.randn(1, 30, generator=generator, dtype=torch.float64)])
    gradient = torch.randn(30, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(v.t())
    wanted = basis @ (basis.t() @ gradient)
    found = estimate("projection", gradient, Tangents({"p": Full(v)}))
    assert float((found - wanted).norm() / wanted.norm()) < 1e-9


def test_as_many_tangents_as_dimensions_give_the_gradient_itself():
    gradient = torch.linspace(-1, 2, 10).double()
    for structure in ("gaussian", "rademacher", "rank-one"):
        tangents = draw_independent(Drawer(parameters(3, 2), 10, structure, 3))
        assert torch.allclose(estimate("projection", gradient, tangents), gradient, rtol=1e-8), structure


def spans(v: Tensor, gradients: Tensor) -> Tensor:
    """Projections of each row of gradients on the span of its v, [B, k, n]; of all on one, [1, k, n]."""
    basis = torch.linalg.pinv(v, rtol=1e-10) @ v
    return (gradients.unsqueeze(1) @ basis).squeeze(1)


@pytest.mark.parametrize("own", [True, False], ids=["own tangents", "shared tangents"])
@pytest.mark.parametrize(("count", "size"), [(1, 7), (4, 7), (7, 7), (12, 7), (16, 300)])
def test_each_samples_projection_is_the_dense_one_for_dependent_tangents_too(own, count, size):
    """Signs of seven numbers are often the same twice, and twelve of them always depend on each other."""
    generator = torch.Generator().manual_seed(3)
    signs = torch.randint(0, 2, (6 if own else 1, count, size), generator=generator).double() * 2 - 1
    gradients = torch.randn(6, size, generator=generator, dtype=torch.float64)
    derivatives = torch.einsum("bkn,bn->kb", signs.expand(6, -1, -1), gradients)
    weights = onto_spans(derivatives, signs @ signs.mT)
    found = torch.einsum("kb,bkn->bn", weights, signs.expand(6, -1, -1))
    wanted = spans(signs, gradients)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-9
    rounded = onto_spans(derivatives.float(), signs @ signs.mT)
    assert rounded.dtype == torch.float32
    found = torch.einsum("kb,bkn->bn", rounded.double(), signs.expand(6, -1, -1))
    assert float((found - wanted).norm() / wanted.norm()) < 1e-4


def test_a_tangent_of_zeros_leaves_the_projection_on_the_others():
    """As noise on an embedding's output is zero for a sample that is all padding."""
    tangents = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    tangents[0, 1], tangents[1] = 0, 0
    gradients = torch.linspace(-1, 2, 10).double().view(2, 5)
    weights = onto_spans(torch.einsum("bkn,bn->kb", tangents, gradients), tangents @ tangents.mT)
    found = torch.einsum("kb,bkn->bn", weights, tangents)
    assert torch.allclose(found[0], spans(tangents[:1, ::2], gradients[:1])[0])
    assert not found[1].any()


def test_mean_and_sum():
    tangents = Drawer(parameters(4), 3, "gaussian", 0).draw()
    gradient, v = torch.linspace(-1, 2, 8).double(), flat(tangents)
    singles = [(v[i] @ gradient) * v[i] for i in range(3)]
    assert torch.allclose(estimate("sum", gradient, tangents), sum(singles))
    assert torch.allclose(estimate("mean", gradient, tangents), sum(singles) / 3)


@pytest.mark.parametrize("count", [1, 4, 16])
def test_expected_cosine_of_a_projection(count):
    """χ̄_k/χ̄_n (Flügel et al. 2024, §3), within 4 standard errors over 2000 draws."""
    gradient = torch.linspace(-1, 2, 40).double()
    source = Drawer(parameters(20), count, "gaussian", 5)
    cosines = []
    for _ in range(2000):
        g = estimate("projection", gradient, source.draw())
        cosines.append(float(g @ gradient / g.norm() / gradient.norm()))
    found = torch.tensor(cosines)
    wanted = chi(count) / chi(40)
    assert abs(float(found.mean()) - wanted) < 4 * float(found.std()) / math.sqrt(len(found))


@pytest.mark.parametrize(
    ("way", "count"), [("mean", 1), ("mean", 4), ("mean", 16), ("projection", 4), ("projection", 16)]
)
def test_decay_on_the_sphere_is_the_theorys(way, count):
    """Σx² shrinks by 1 − k/(n+k+1) a step at the best rate for the mean, by 1 − k/n at ½ for FROG.

    The mean factor over 4000 steps, each from the same length, within 4 standard errors.
    """
    size = 64
    rate, wanted = (
        (count / (2 * (size + count + 1)), 1 - count / (size + count + 1))
        if way == "mean"
        else (0.5, 1 - count / size)
    )
    x = torch.linspace(-1, 2, size).double()
    source = Drawer(parameters(size // 2), count, "gaussian", 7)
    shrunk = []
    for _ in range(4000):
        after = x - rate * estimate(way, 2 * x, source.draw())
        shrunk.append(after.square().sum() / x.square().sum())
    found = torch.stack(shrunk)
    assert abs(float(found.mean()) - wanted) < 4 * float(found.std()) / math.sqrt(len(found))


def test_dependent_tangents_are_drawn_again():
    """Three signs each: of 3 tangents two are often the same, or opposite."""
    source, plain = (Drawer({"p": torch.zeros(3).double()}, 3, "rademacher", 0) for _ in range(2))
    ranks = [int(torch.linalg.matrix_rank(flat(draw_independent(source)))) for _ in range(50)]
    assert set(ranks) == {3}
    assert min(int(torch.linalg.matrix_rank(flat(plain.draw()))) for _ in range(50)) < 3


def test_where_no_independent_tangents_exist_it_says_so():
    with pytest.raises(ValueError, match="independent"):
        draw_independent(Drawer({"p": torch.zeros(2).double()}, 3, "rademacher", 0))
