"""The approximation experiment: what it measures is what theory says, and its four functions agree."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fgbench.errors import UsageError
from fgbench.measurement.statistics import Estimate
from fgbench.pushforward.structures import squared_length
from fgbench.reproduction import approximation
from fgbench.reproduction.approximation import expected_cosine, expected_norm

STANDARD_ERRORS = 4  # one cell in 16,000 is further off by chance
SETTINGS: dict[str, Any] = {
    "dimensions": [1, 8, 100],
    "tangents": [1, 4, 16],
    "ways": ["mean", "sum", "projection"],
    "structures": ["gaussian", "rademacher"],
    "draws": 400,
}


def run(folder: Path, **changes: Any) -> dict[str, Estimate]:
    approximation.measure({**SETTINGS, **changes}, folder, lambda text, share: None)
    return approximation.figures(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("approximation")
    run(path)
    return path


def off(found: Estimate, truth: float) -> float:
    """By how many standard errors, as the 95 % interval of many draws gives them; rounding is none."""
    if found.value == pytest.approx(truth, rel=1e-5):
        return 0.0
    return abs(found.value - truth) / ((found.high - found.low) / 2 / 1.966)


@pytest.mark.parametrize("n", [8, 100])
@pytest.mark.parametrize("k", [1, 4, 16])
@pytest.mark.parametrize("way", ["mean", "sum", "projection"])
def test_gaussian_tangents_do_what_theory_says(folder, way, k, n):
    found, used = approximation.figures(folder), min(k, n)
    cell = f"gaussian/{way}/n={n}/k={k}"
    assert off(found[f"{cell}/cosine"], expected_cosine(used, n, way)) < STANDARD_ERRORS
    assert off(found[f"{cell}/norm"], expected_norm(used, n, way)) < STANDARD_ERRORS
    assert off(found[f"{cell}/excess"], 1) < STANDARD_ERRORS


@pytest.mark.parametrize("structure", ["rademacher", "sphere", "orthonormal", "fixed-angle"])
def test_any_tangents_projected_have_the_expected_cosine(tmp_path, structure):
    """The gradient's direction is uniform, whatever the span is."""
    changes = {"structures": [structure], "dimensions": [64], "tangents": [4], "ways": ["projection"]}
    found = run(tmp_path, **changes)
    assert off(found[f"{structure}/projection/n=64/k=4/cosine"], expected_cosine(4, 64)) < STANDARD_ERRORS
    assert off(found[f"{structure}/projection/n=64/k=4/excess"], 1) < STANDARD_ERRORS


def test_as_many_tangents_as_dimensions_project_to_the_gradient_and_more_are_not_used(folder):
    found = approximation.figures(folder)
    for key in ("gaussian/projection/n=8/k=16", "gaussian/mean/n=1/k=16", "rademacher/projection/n=8/k=16"):
        assert found[f"{key}/cosine"].value == pytest.approx(1, abs=1e-6)
    assert found["rademacher/mean/n=1/k=4/norm"] == found["rademacher/mean/n=1/k=1/norm"]


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 50), (4, 50), (50, 50), (16, 65536)])
def test_expected_values_fit_each_other(k, n):
    assert expected_cosine(n, n) == pytest.approx(1)
    assert expected_cosine(k, n) == pytest.approx(math.sqrt(k / n), rel=0.3)
    # One tangent is its own span.
    assert expected_cosine(1, n) == pytest.approx(expected_cosine(1, n, "mean"))
    assert expected_norm(k, n, "sum") == pytest.approx(k * expected_norm(k, n, "mean"))
    # The mean of lengths is below the root of their mean square, by a variance of about 1/k at most.
    square = squared_length("gaussian", "", n, k)
    assert square is not None
    assert square * (1 - 2 / k) < expected_norm(k, n, "mean") ** 2 < square


def test_expected_values_are_those_of_simulated_normal_numbers():
    rng, n, k = np.random.default_rng(1), 10, 3
    tangents = rng.standard_normal((40_000, k, n))
    means = np.einsum("dk,dkn->dn", tangents[:, :, 0], tangents) / k  # of the gradient e₁
    lengths = np.linalg.norm(means, axis=1)
    assert lengths.mean() == pytest.approx(expected_norm(k, n, "mean"), rel=0.01)
    assert (means[:, 0] / lengths).mean() == pytest.approx(expected_cosine(k, n, "mean"), rel=0.01)


def test_a_cell_does_not_depend_on_what_else_is_measured(folder, tmp_path):
    alone = run(tmp_path, dimensions=[100], tangents=[4], ways=["mean"], structures=["rademacher"])
    assert alone.items() <= approximation.figures(folder).items()


def test_a_single_draw_has_no_interval(tmp_path):
    assert not run(tmp_path, draws=1)["gaussian/mean/n=8/k=4/cosine"].has_interval


def test_progress_runs_from_nothing_to_nearly_all(tmp_path):
    told: list[tuple[str, float]] = []
    approximation.measure({**SETTINGS, "draws": 1}, tmp_path, lambda *what: told.append(what))
    shares = [share for _, share in told]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] < 1
    assert told[0][0] == "gaussian, n = 1, k = 1"


def test_the_estimate_of_its_time_grows_with_the_work():
    few = approximation.seconds(SETTINGS)
    assert 0 < few < approximation.seconds({**SETTINGS, "dimensions": [1, 8, 100, 10_000]})
    assert approximation.seconds({**SETTINGS, "ways": ["mean"]}) < few


def test_more_entries_than_a_tensor_has_room_for_are_one_gradient(tmp_path, monkeypatch):
    monkeypatch.setattr(approximation, "PIECE", 30)
    changes = {"dimensions": [100], "tangents": [16], "structures": ["gaussian"]}
    found = run(tmp_path, **changes)["gaussian/projection/n=100/k=16/cosine"]
    assert off(found, expected_cosine(16, 100)) < STANDARD_ERRORS


@pytest.mark.parametrize("wrong", [{"structures": ["rank-one"]}, {"ways": ["median"]}])
def test_what_is_no_structure_or_way_is_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match=r"approximation: no (structure 'rank-one'|way 'median')"):
        run(tmp_path, **wrong)


def test_a_chart_a_structure_with_its_claims(folder, tmp_path):
    claims = {"gaussian/projection/n=100/k=4/cosine": 0.2, "elsewhere": 1.0}
    paths = approximation.draw(folder, tmp_path, claims)
    assert [p.name for p in paths] == ["approximation_gaussian.png", "approximation_rademacher.png"]
    assert all(p.stat().st_size > 10_000 for p in paths)
