"""The alignment experiment: what a step did to the weights, beside reverse mode's gradient."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from fgbench.errors import UsageError
from fgbench.measurement.statistics import Estimate
from fgbench.reproduction import alignment
from fgbench.reproduction.approximation import expected_cosine
from tests.builders import TINY_DATA, tiny_matched

PARAMETERS = 36 * 16 + 16 + 16 * 4 + 4
SETTINGS: dict[str, Any] = {
    "arch": "mlp",
    "depth": 1,
    "width": 16,
    "dataset": TINY_DATA,
    "batch": 8,
    "methods": {"backprop": 0.05, "forward": 1e-4, "forward:tangents=4": 1e-4, "spsa": 1e-4},
    "steps": 40,
    "every": 1,
    "seeds": 3,
    "device": "cpu",
    "threads": 1,
}


def run(folder: Path, **changes: Any) -> dict[str, Estimate]:
    alignment.measure({**SETTINGS, **changes}, folder, lambda text, share: None)
    return alignment.figures(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("alignment")
    run(path)
    return path


@pytest.fixture(scope="module")
def table(folder):
    return pd.read_csv(folder / "alignment.csv", dtype={"block": str})


def test_backprop_is_aligned_exactly_in_every_block_and_step(table, folder):
    own = table[table["method"] == "backprop"]
    assert set(own["block"]) == {"all", "1", "3"}  # Flatten and ReLU have no parameters
    assert (own["cosine"] - 1).abs().max() < 1e-9
    assert alignment.figures(folder)["backprop/alignment"].value == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("method", "k"), [("forward", 1), ("forward:tangents=4", 4), ("spsa", 1)])
def test_forward_gradients_have_the_cosine_that_theory_expects(table, method, k):
    own = table[(table["method"] == method) & (table["block"] == "all")]["cosine"]
    error = own.std() / math.sqrt(len(own))
    assert abs(own.mean() - expected_cosine(k, PARAMETERS, "mean")) < 4 * error
    assert error < 0.1 * own.mean()


def test_losses_are_those_of_training_and_backprop_ends_lowest(table, folder):
    losses = {name.partition("/")[0]: e for name, e in alignment.figures(folder).items() if "/loss" in name}
    starts = table[table["step"] == 0].groupby("seed")["loss"].nunique()
    assert set(starts) == {1}  # the same weights for all
    assert min(losses, key=lambda name: losses[name].value) == "backprop"
    assert losses["backprop"].has_interval


def test_an_interrupted_one_goes_on_after_its_last_whole_run(tmp_path, folder, monkeypatch):
    taken = []

    def interrupted(text, share):
        taken.append(text)
        if len(taken) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        alignment.measure(SETTINGS, tmp_path, interrupted)
    trained, whole = [], alignment._run
    monkeypatch.setattr(alignment, "_run", lambda *given: trained.append(given[1]) or whole(*given))
    run(tmp_path)
    assert len(trained) == 12 - 5
    assert (tmp_path / "alignment.csv").read_bytes() == (folder / "alignment.csv").read_bytes()


def test_it_is_recorded_as_often_as_asked_and_after_the_last_step(tmp_path):
    run(tmp_path, steps=7, every=3, seeds=1, methods={"backprop": 0.05})
    table = pd.read_csv(tmp_path / "alignment.csv")
    assert list(table) == ["method", "seed", "step", "block", "cosine", "loss"]
    assert list(table[table["block"] == "all"]["step"]) == [0, 3, 6, 7]


def test_alignment_is_that_of_the_later_half(tmp_path):
    rows = [("m", seed, step, "all", step + seed, 1.0) for seed in (0, 1) for step in (0, 5, 10)]
    pd.DataFrame(rows, columns=alignment.COLUMNS).to_csv(tmp_path / alignment.TABLE, index=False)
    found = alignment.figures(tmp_path)
    assert found["m/alignment"].value == 8.0
    assert found["m/alignment"].low < 8.0 < found["m/alignment"].high
    assert found["m/loss"] == Estimate(1.0, 1.0, 1.0)


def test_a_run_that_diverges_ends_and_has_no_loss(tmp_path):
    found = run(tmp_path, methods={"forward": 1e200, "backprop": 0.05}, seeds=2)
    assert found["forward/loss"].value == math.inf
    assert math.isnan(found["forward/alignment"].value)
    assert found["backprop/alignment"].value == pytest.approx(1)
    assert alignment.draw(tmp_path, tmp_path, {})[0].exists()


def test_the_gradient_has_the_steps_masks_and_leaves_statistics_alone():
    matched = tiny_matched(dtype="float64")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(36, 4), nn.BatchNorm1d(4)).double()
    (batch,) = matched.batches(1)
    gradient = alignment._gradient(matched, model, batch)
    assert int(model[3].num_batches_tracked) == 0
    again = alignment._gradient(matched, model, batch)
    assert all(torch.equal(a, b) for a, b in zip(gradient, again, strict=True))


def test_progress_and_time(tmp_path):
    told: list[tuple[str, float]] = []
    few = {**SETTINGS, "steps": 2, "seeds": 2, "methods": {"backprop": 0.05, "forward": 1e-4}}
    alignment.measure(few, tmp_path, lambda *what: told.append(what))
    assert told == [
        ("backprop, seed 0", 0.0),
        ("forward, seed 0", 0.25),
        ("backprop, seed 1", 0.5),
        ("forward, seed 1", 0.75),
    ]
    assert 0 < alignment.seconds(few) < alignment.seconds(SETTINGS)


def test_what_is_no_method_is_refused(tmp_path):
    with pytest.raises(UsageError, match="backpropagation"):
        run(tmp_path, methods={"backpropagation": 0.1})


def test_a_chart_with_claims(folder, tmp_path):
    (path,) = alignment.draw(folder, tmp_path, {"forward/alignment": 0.05, "elsewhere": 1.0})
    assert path.name == "alignment.png"
    assert path.stat().st_size > 10_000


def test_inner_leaves_out_the_blocks_that_have_the_gradient_itself(tmp_path):
    rows = [
        {"method": "m", "seed": seed, "step": step, "block": block, "cosine": cosine, "loss": 1.0}
        for seed, shift in ((0, 0.0), (1, 0.1))
        for step in (0, 10, 20)
        for block, cosine in (("all", 0.9), ("0", 0.1 + shift), ("1", 0.3 + shift), ("2", 1.0))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / alignment.TABLE, index=False)
    found = alignment.figures(tmp_path)
    assert found["m/inner"].value == pytest.approx(0.25)
    assert alignment.by_seed(tmp_path)["m/inner"] == pytest.approx({0: 0.2, 1: 0.3})
    assert found["m/alignment"].value == pytest.approx(0.9)
