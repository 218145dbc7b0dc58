"""Variance against cost: second moments that are right, and the frontier that they make."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from fgbench import methods
from fgbench.experiments.layers import CASES, KINDS, Case, Kind, Moments, draw_all, main
from tests.builders import cross_entropy, flat, reverse_gradient, tiny_batch, tiny_mlp, updates


def test_kinds_are_methods_and_cases_have_names_of_their_own():
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(set(case.kinds) <= set(KINDS) for case in CASES)
    assert len({methods.canonical_specs([kind.spec]) for kind in KINDS}) == len(KINDS)


@pytest.fixture(scope="module")
def moments():
    return Moments(tiny_mlp(), tiny_batch(), 600)


@pytest.mark.parametrize(
    "kind",
    [
        Kind("rademacher", 1, "all"),
        Kind("rank-one", 1, "size"),
        Kind("rank-one", 4, "uniform"),
        Kind("activity", 1, "all"),
        Kind("activity", 1, "uniform"),
        Kind("activity", 4, "size"),
    ],
    ids=str,
)
def test_a_second_moment_is_the_mean_square_of_the_methods_own_steps(kind, moments):
    model, batch = moments.model, moments.batch
    square = float(flat(reverse_gradient(model, batch)).square().sum())
    step = methods.find(kind.spec).prepare(tiny_mlp(), cross_entropy, 5)
    seen = torch.stack([u.square().sum() for u in updates(step, batch, 1000)]) / square
    found = moments(kind)
    # Several tangents of a layer share (k − 1)/k ‖∇f‖², which is left out of a bound of 1 here.
    error = 4 * float(seen.std()) / 1000**0.5 + 0.1 * found + (kind.tangents > 1)
    assert abs(float(seen.mean()) - found) < error


@pytest.mark.parametrize("name", ["mlp-d2", "resnet18", "vit_b_16"])
def test_a_case_is_a_model_and_a_batch_that_fits_it(name):
    (case,) = (c for c in CASES if c.name == name)
    model, (x, target) = case.build()
    assert model.eval()(x[:2]).shape == (2, 10)
    assert len(x) == len(target) == case.samples


def test_it_is_drawn(tmp_path):
    own = {
        "ratio": 0.5,
        "ratio_low": 0.4,
        "ratio_high": 0.6,
        "second_moment": 10.0,
        "draws": 5,
        "samples": 64,
    }
    rows = [vars(kind) | own | {"case": "mlp-d2", "ratio": 0.5 + i} for i, kind in enumerate(KINDS)]
    draw_all(pd.DataFrame(rows).assign(ratio_low=0.1, ratio_high=99.0), tmp_path)
    assert "frontier" in (tmp_path / "layers-mlp-d2.svg").read_text()
    assert (tmp_path / "layers-mlp-d2.png").stat().st_size > 10_000


def test_its_table_has_every_kind_beside_the_fastest_backprop(tmp_path, monkeypatch):
    """Timing is made up; moments are those of a small model."""

    def compare(model, loss, batch, specs, **options):
        own = dict.fromkeys(("r", "ratio", "ratio_low", "ratio_high", "processes", "rounds"), 2.0)
        names = methods.canonical_specs(specs)
        rows = [{"method": name, "role": "method", "update": "direct"} | own for name in names]
        return pd.DataFrame([{"method": "backprop", "role": "aa", "update": "direct"} | own, *rows])

    monkeypatch.setattr("fgbench.api.compare", compare)
    monkeypatch.setattr(Case, "build", lambda self: (tiny_mlp(), tiny_batch()))
    monkeypatch.setattr("fgbench.experiments.layers.LEARNING_IN", 10)
    threads = torch.get_num_threads()
    main(["--case", "mlp-d2", "--draws", "3", "--out", str(tmp_path), "--threads", str(threads)])
    rows = pd.read_csv(tmp_path / "layers.csv")
    assert len(rows) == len(KINDS)
    assert set(rows["over"]) == {"direct"}
    assert rows["second_moment"].gt(0).all()
    assert rows["draws"].notna().tolist() == [kind.structure == "activity" for kind in KINDS]
    assert (tmp_path / "layers-mlp-d2.png").exists()
