"""Means against noise: each does what it says to a step, and the search reports what its runs did."""

from __future__ import annotations

import math
from itertools import pairwise

import pandas as pd
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from fgbench.experiments import steadying
from fgbench.experiments.steadying import (
    AVERAGED,
    DIVERGED,
    ENDED,
    REACHED,
    Run,
    Steadied,
    main,
    search,
    summary,
)
from fgbench.plan import make_plan
from fgbench.running.matched import build_matched
from tests.builders import config

RATE, STEPS = 0.1, 4


@pytest.fixture(scope="module")
def matched():
    (group,) = make_plan(config(dataset="synthetic:samples=64,shape=1x3x3", batch=8)).groups
    return build_matched(group, "", 1)


def weights_of(matched, means):
    """Weights after each step, the first before any; and those that are evaluated at the end."""
    steadied = Steadied(matched, "backprop", means)
    found = [parameters_to_vector(steadied.model.parameters()).detach().clone()]
    for batch in matched.batches(STEPS):
        steadied(batch, RATE)
        found.append(parameters_to_vector(steadied.model.parameters()).detach().clone())
    return found, parameters_to_vector(steadied.evaluated.parameters()).detach()


def by_torch(matched, momentum):
    model = matched.copy_of_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=momentum)
    for x, y in matched.batches(STEPS):
        optimizer.zero_grad()
        matched.loss(model(x), y).backward()
        optimizer.step()
    return parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize(("means", "momentum"), [("none", 0.0), ("momentum", steadying.MOMENTUM)])
def test_it_steps_as_torchs_sgd_does(matched, means, momentum):
    found, evaluated = weights_of(matched, means)
    assert torch.allclose(found[-1], by_torch(matched, momentum), atol=1e-6)
    assert torch.equal(evaluated, found[-1])


@pytest.mark.parametrize("spec", ["forward", "forward:structure=activity"])
def test_a_change_that_changes_nothing_leaves_a_methods_steps_as_they_are(matched, monkeypatch, spec):
    """The engine keeps code for weights at one place in memory: changed weights have to be there."""
    monkeypatch.setattr(steadying, "MOMENTUM", 0.0)
    plain, changed = (steadying.train(matched, spec, means, 1e-3, 60) for means in ("none", "momentum"))
    assert changed.lowest == pytest.approx(plain.lowest, rel=1e-4)


def test_a_normalised_step_is_as_long_as_the_rate(matched):
    found, _ = weights_of(matched, "normalised")
    for before, after in pairwise(found):
        assert float((after - before).norm()) == pytest.approx(RATE, rel=1e-3)


def test_a_clipped_step_is_no_longer_than_the_mean_before_it():
    change = steadying.clipped()
    one = torch.tensor([3.0, 4.0])
    assert torch.equal(change(one, RATE), one)
    assert torch.allclose(change(10 * one, RATE), one)  # the mean was 5
    assert torch.equal(change(0.1 * one, RATE), 0.1 * one)
    assert float(change(10 * one, RATE).norm()) > 5.0  # which has moved since


def test_an_average_leaves_the_weights_and_is_of_late_ones(matched):
    found, average = weights_of(matched, AVERAGED)
    assert torch.allclose(found[-1], by_torch(matched, 0.0), atol=1e-6)
    expected = found[0]
    for number, weights in enumerate(found[1:], 1):
        share = (steadying.LATE + 1) / (number + steadying.LATE)
        expected = (1 - share) * expected + share * weights
    assert torch.allclose(average, expected, atol=1e-6)


def test_the_search_goes_down_until_two_rates_are_no_sooner(monkeypatch):
    tried = []

    def made_up(own, spec, means, rate, most):
        tried.append((own, rate))
        steps = abs(math.log2(rate)) + 1  # 1 is the best rate
        return Run(spec, means, rate, own, 9, DIVERGED if rate > 2 else REACHED, 0.1, (steps, steps))

    monkeypatch.setattr(steadying, "train", made_up)
    runs = list(search([1, 2], "backprop", "none", 100))
    assert tried == [(1, 8.0), (1, 4.0), *((seed, rate) for rate in (2.0, 1.0, 0.5, 0.25) for seed in (1, 2))]
    (row,) = summary(runs, {"backprop": 0.5})
    assert row["largest_rate"] == 2.0
    assert (row["rate_to_0.3"], row["steps_to_0.3"], row["seconds_to_0.3"]) == (1.0, 1.0, 0.5)


def test_who_reaches_nothing_has_no_time(monkeypatch):
    never = (math.inf, math.inf)
    runs = [Run("backprop", "none", rate, 1, 9, ENDED, 1.0, never) for rate in (2.0, 1.0)]
    (row,) = summary(runs, {"backprop": 0.5})
    assert row["largest_rate"] == 2.0
    assert math.isnan(row["rate_to_0.3"])
    assert row["seconds_to_0.3"] == math.inf


def test_a_row_for_each_run_and_for_each_method_and_means(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(steadying, "METHODS", ("backprop", "forward"))
    monkeypatch.setattr(steadying, "MEANS", ("none", "normalised", "adam"))
    monkeypatch.setattr(steadying, "RATES", (1e30, 0.5, 0.05))
    small = ["--width", "4", "--depth", "1", "--seeds", "2", "--dataset", "digits", "--seconds", "0.01"]
    threads = torch.get_num_threads()
    main(["--out", str(tmp_path), *small])
    torch.set_num_threads(threads)
    runs, best = pd.read_csv(tmp_path / "steadying.csv"), pd.read_csv(tmp_path / "steadying_best.csv")
    assert list(best["method"] + best["means"]) == [
        f"{method}{means}" for means in ("none", "normalised", "adam") for method in ("backprop", "forward")
    ]
    assert set(runs["outcome"][(runs["rate"] == 1e30) & (runs["means"] == "none")]) == {DIVERGED}
    assert (best["largest_rate"].dropna() < 1e30).all()
    assert capsys.readouterr().out.count("method: ") == len(best)
