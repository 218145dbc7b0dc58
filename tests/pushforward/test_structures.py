"""Tangents against their definitions: mean 0, covariance I, lengths, angles, ranks, moments."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fgbench.pushforward.structures import Drawer, Tangents, squared_length
from fgbench.pushforward.tangents import Full, RankOne

DRAWS = 6000
STRUCTURES = [
    "gaussian",
    "rademacher",
    "sphere",
    "rank-one",
    "rank-one gaussian",
    "orthonormal",
    "fixed-angle",
]


def parameters() -> dict[str, Tensor]:
    return {"weight": torch.zeros(3, 2).double(), "bias": torch.zeros(2).double()}


def drawer(
    structure: str, count: int = 3, seed: int = 0, shapes: dict[str, Tensor] | None = None, **more
) -> Drawer:
    name, _, entries = structure.partition(" ")
    return Drawer(shapes or parameters(), count, name, seed, entries=entries or "rademacher", **more)


def flat(tangents: Tangents) -> Tensor:
    """[k, n]."""
    return torch.cat([t.flatten(1) for t in tangents.full()], 1)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_tangent_has_mean_0_and_covariance_1(structure):
    """Each entry within 5 standard errors: a false alarm in 1e5 tests of 72 entries times 3 tangents."""
    source = drawer(structure, angle=35.0)
    draws = torch.stack([flat(source.draw()) for _ in range(DRAWS)])  # [draws, k, n]
    for index in range(3):
        v = draws[:, index]
        assert float((v.mean(0).abs() / (v.std(0) / math.sqrt(DRAWS))).max()) < 5
        products = v.unsqueeze(1) * v.unsqueeze(2)
        error = products.std(0) / math.sqrt(DRAWS) + 1e-12
        assert float(((products.mean(0) - torch.eye(8)).abs() / error).max()) < 5


@pytest.mark.parametrize(
    ("structure", "moment"),
    [
        ("gaussian", 8 + 2),
        ("rademacher", 8),
        ("sphere", 8),
        ("rank-one", 8),
        ("orthonormal", 8),
    ],
)
def test_second_moment_of_a_forward_gradient(structure, moment):
    """E‖(∇f·v) v‖² / ‖∇f‖² within 4 standard errors (a false alarm in 16 000)."""
    gradient = torch.linspace(-1, 2, 8).double()
    source = drawer(structure, count=1)
    v = torch.stack([flat(source.draw())[0] for _ in range(20_000)])
    squares = (v @ gradient).square() * v.square().sum(1) / gradient.square().sum()
    assert abs(float(squares.mean()) - moment) < 4 * float(squares.std()) / math.sqrt(len(v)) + 1e-9


def test_second_moment_of_rank_one_gaussian_factors():
    """(m+2)(n+2) for one m×n matrix whose gradient has rank one; within 4 standard errors."""
    shapes = {"weight": torch.zeros(3, 2).double()}
    gradient = torch.outer(torch.tensor([1.0, -2, 1]), torch.tensor([0.5, 1])).double().flatten()
    source = drawer("rank-one gaussian", count=1, shapes=shapes)
    v = torch.stack([flat(source.draw())[0] for _ in range(40_000)])
    squares = (v @ gradient).square() * v.square().sum(1) / gradient.square().sum()
    assert abs(float(squares.mean()) - 5 * 4) < 4 * float(squares.std()) / math.sqrt(len(v))


@pytest.mark.parametrize(
    ("structure", "count"),
    [("gaussian", 1), ("gaussian", 4), ("rademacher", 3), ("sphere", 2), ("rank-one", 3), ("orthonormal", 4)],
)
def test_squared_length_of_the_mean_is_its_closed_form(structure, count):
    """Within 4 standard errors over 8000 draws."""
    gradient = torch.linspace(-1, 2, 8).double()
    source = drawer(structure, count)
    lengths = []
    for _ in range(8000):
        v = flat(source.draw())
        lengths.append(((v @ gradient) @ v / count).square().sum())
    shares = torch.stack(lengths) / gradient.square().sum()
    wanted = squared_length(structure, "rademacher", 8, count)
    assert abs(float(shares.mean()) - wanted) < 4 * float(shares.std()) / math.sqrt(len(shares))


def test_squared_length_is_not_claimed_where_it_depends_on_the_gradient():
    assert squared_length("rank-one", "gaussian", 8, 1) is None
    assert squared_length("fixed-angle", "rademacher", 8, 1) is None


class TestGeometry:
    def test_sphere_has_length_root_n(self):
        assert torch.allclose(
            flat(drawer("sphere").draw()).norm(dim=1), torch.full((3,), math.sqrt(8)).double()
        )

    @pytest.mark.parametrize("count", [2, 8])
    def test_orthonormal_tangents_are_at_right_angles_and_of_length_root_n(self, count):
        v = flat(drawer("orthonormal", count).draw())
        assert torch.allclose(v @ v.t(), 8 * torch.eye(count).double(), atol=1e-9)

    @pytest.mark.parametrize("angle", [15.0, 45.0, 90.0])
    def test_fixed_angle_is_that_to_the_first(self, angle):
        v = flat(drawer("fixed-angle", 4, angle=angle).draw())
        assert torch.allclose(v.norm(dim=1), torch.full((4,), math.sqrt(8)).double())
        cosines = v[1:] @ v[0] / 8
        assert torch.allclose(cosines, torch.full((3,), math.cos(math.radians(angle))).double(), atol=1e-12)

    def test_rank_one_has_rank_one_and_vectors_are_whole(self):
        shapes = {"matrix": torch.zeros(6, 5), "conv": torch.zeros(4, 3, 2, 2), "token": torch.zeros(1, 1, 7)}
        drawn = drawer("rank-one gaussian", 2, shapes=shapes | {"bias": torch.zeros(9)}).draw().by_name
        for name, rank in (("matrix", 1), ("conv", 1)):
            for v in drawn[name].full():
                assert int(torch.linalg.matrix_rank(v.flatten(1))) == rank
        assert isinstance(drawn["token"], Full)
        assert drawn["bias"].full().shape == (2, 9)

    def test_rademacher_kinds_are_of_plus_and_minus_one(self):
        for structure in ("rademacher", "rank-one"):
            assert set(flat(drawer(structure).draw()).flatten().tolist()) == {-1.0, 1.0}

    @pytest.mark.parametrize(("structure", "kurtosis"), [("gaussian", 3.0), ("rademacher", 1.0)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
    def test_kurtosis(self, structure, kurtosis, dtype):
        v = drawer(structure, 1, shapes={"w": torch.zeros(700, 600, dtype=dtype)}).draw().full()[0].double()
        assert abs(float(v.pow(4).mean()) - kurtosis) < 5 * math.sqrt(96 / v.numel()) + 0.01 * (
            dtype == torch.bfloat16
        )


class TestDrawing:
    @pytest.mark.parametrize("structure", STRUCTURES)
    def test_the_seed_decides(self, structure):
        one, same, other = (flat(drawer(structure, seed=s).draw()) for s in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    @pytest.mark.parametrize("structure", ["gaussian", "rademacher", "sphere", "fixed-angle"])
    def test_redrawn_tangents_are_the_same_until_the_next_draw(self, structure):
        source = drawer(structure, keep=False)
        first = source.draw()
        before = flat(first)
        assert torch.equal(flat(first), before)
        second = source.draw()
        assert not torch.equal(flat(second), before)
        assert torch.equal(flat(first), before)

    def test_a_model_without_kept_tangents_holds_none(self):
        source = drawer("gaussian", keep=False)
        source.draw()
        assert source.buffers == []


class TestTangent:
    def kinds(self):
        generator = torch.Generator().manual_seed(0)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        yield Full(normal(4, 3, 2, 2)), torch.zeros(3, 2, 2).double()
        yield Full(normal(4)), torch.zeros(()).double()
        yield RankOne(normal(4, 3), normal(4, 2, 2)), torch.zeros(3, 2, 2).double()
        source = drawer("gaussian", 4, keep=False, shapes={"w": torch.zeros(3, 5).double()})
        yield source.draw().by_name["w"], torch.zeros(3, 5).double()

    def test_gram_is_of_all_entries(self):
        for tangent, _ in self.kinds():
            rows = tangent.full().reshape(tangent.count, -1)
            assert torch.allclose(tangent.gram(), rows @ rows.t(), rtol=1e-12)

    @pytest.mark.parametrize("layout", ["contiguous", "transposed"])
    def test_adds_its_weighted_sum_in_place(self, layout):
        for tangent, parameter in self.kinds():
            for count in (1, 4):
                part, weights = tangent.part(0, count), torch.linspace(-1, 2, count).double()
                target = parameter.clone() + 1
                if layout == "transposed" and parameter.dim() > 1:
                    target = target.transpose(0, 1).contiguous().transpose(0, 1)
                wanted = target + torch.tensordot(weights, part.full(), dims=1)
                part.add_to(target, weights)
                assert torch.allclose(target, wanted, rtol=1e-12)

    def test_parts_are_its_own_tangents(self):
        for tangent, _ in self.kinds():
            assert tangent.part(1, 3).count == 2
            assert torch.equal(tangent.part(1, 3).full(), tangent.full()[1:3])
            assert torch.equal(tangent.part(1, 4).part(1, 2).full(), tangent.full()[2:3])


def test_mixing_is_the_same_before_and_after():
    """Derivatives along the tangents, and an estimate put back on what was drawn."""
    tangents = drawer("fixed-angle", 4).draw()
    gradient = torch.linspace(-1, 2, 8).double()
    raw = torch.cat([t.full().flatten(1) for t in tangents.by_name.values()], 1)
    v, weights = flat(tangents), torch.linspace(1, 2, 4).double()
    assert torch.allclose(tangents.directional(raw @ gradient), v @ gradient)
    assert torch.allclose(tangents.onto_drawn(weights) @ raw, weights @ v)
    assert torch.allclose(tangents.gram(), v @ v.t())


def test_drawing_leaves_pytorchs_random_numbers_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for structure in STRUCTURES:
        drawer(structure).draw()
    assert torch.equal(torch.get_rng_state(), before)
