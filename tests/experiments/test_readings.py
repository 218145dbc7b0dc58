"""Readings of the first paper's MLP: what they change, what they leave, and what is said of a run."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from fgbench.experiments import readings
from fgbench.experiments.readings import DEFAULT, HE, NORMALISED, UNIT, Evaluated, ends, main, read, train
from fgbench.experiments.steadying import DIVERGED, ENDED, NONE
from tests.builders import tiny_matched


def test_a_reading_changes_weights_and_pixels_and_nothing_else():
    matched = tiny_matched()
    same, other = (read(matched, weights, NORMALISED) for weights in (HE, DEFAULT))
    assert same.data is other.data is matched.data
    assert same.order is other.order is matched.order
    first = [next(own.model.parameters()) for own in (matched, same, other, read(matched, DEFAULT, UNIT))]
    assert first[0].equal(first[1])
    assert not first[0].equal(first[2])
    assert first[2].equal(first[3]), "the same at every call"
    unit = read(matched, HE, UNIT).data
    assert (float(unit.train_x.min()), float(unit.train_x.max())) == (0.0, 1.0)
    there, here = (own.train_x.flatten() for own in (matched.data, unit))
    assert float(torch.corrcoef(torch.stack([there, here]))[0, 1]) == pytest.approx(1.0)


def test_a_run_ends_at_its_last_step_or_where_it_falls(monkeypatch):
    matched = tiny_matched()
    assert [at for at, *_ in train(matched, "backprop", NONE, 7)] == list(range(1, 8))
    monkeypatch.setattr(readings, "RATE", 1e6)
    fallen = list(train(matched, "backprop", NONE, 400))
    assert fallen[-1][0] < 400


def test_steps_are_counted_to_backprops_lowest_loss_on_the_same_reading():
    def run(method: str, *losses: float) -> list[Evaluated]:
        return [Evaluated(method, HE, UNIT, NONE, 1, 10 * i, loss, 0.5) for i, loss in enumerate(losses, 1)]

    points = [*run("backprop", 2.0, 1.5, 1.0, 1.1), *run("forward", 1.4, 0.9, 0.8, 0.7)]
    backprop, forward = ends(points, 40)
    assert (backprop["steps_ratio"], forward["steps_ratio"]) == (1.0, pytest.approx(2 / 3))
    assert (forward["lowest"], forward["outcome"]) == (0.7, ENDED)
    _, lost = ends([*run("backprop", 1.0, 0.5), *run("forward", 3.0)], 20)
    assert (lost["steps_ratio"], lost["outcome"]) == (math.inf, DIVERGED)


def test_a_row_for_each_run_of_what_was_asked_for(tmp_path, capsys):
    small = ["--width", "4", "--dataset", "digits", "--steps", "4", "--seeds", "2", "--means", NONE]
    threads = torch.get_num_threads()
    main(["--out", str(tmp_path), *small])
    torch.set_num_threads(threads)
    rows = pd.read_csv(tmp_path / "readings_ends.csv")
    assert len(rows) == 2 * 2 * 2 * 2
    assert set(rows["means"]) == {NONE}
    assert len(pd.read_csv(tmp_path / "readings.csv")) == 4 * len(rows)
    assert capsys.readouterr().out.count("Evaluated") == len(rows)
