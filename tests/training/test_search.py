"""The learning-rate search on functions whose best rate is known."""

from __future__ import annotations

import math

import pytest

from fgbench.training.search import DECADES, MAX_EXTENSIONS, MAX_WHOLE_RUNS, Trial, best, search


class Problem:
    """Loss as a function of the rate; remembers what was tried."""

    def __init__(
        self, optimum: float, diverges_above: float = math.inf, whole_diverges_above: float = math.inf
    ):
        self.optimum, self.diverges_above, self.whole = optimum, diverges_above, whole_diverges_above
        self.tried: list[tuple[float, bool]] = []

    def __call__(self, rate: float, full: bool) -> float:
        self.tried.append((rate, full))
        if rate > (self.whole if full else self.diverges_above):
            return math.inf
        loss = 1 + abs(math.log10(rate / self.optimum))
        return 0.9 * loss if full else loss

    def rates(self, full: bool) -> list[float]:
        return [rate for rate, was_full in self.tried if was_full == full]


@pytest.mark.parametrize("optimum", [1e-4, 1e-3, 3.16e-3, 0.01, 0.0316, 0.1])
def test_finds_a_rate_on_the_grid_of_half_decades(optimum):
    assert best(search(Problem(optimum))).learning_rate == pytest.approx(optimum, rel=0.01)


@pytest.mark.parametrize("optimum", [0.002, 0.02, 0.06])
def test_is_never_further_off_than_a_quarter_decade(optimum):
    found = best(search(Problem(optimum))).learning_rate
    assert abs(math.log10(found / optimum)) <= 0.26


def test_every_method_gets_the_same_grid_and_whole_runs_of_the_best_two():
    problem = Problem(0.009)
    whole = search(problem)
    assert problem.rates(full=False) == [*DECADES, 3.16e-3, 3.16e-2]
    assert problem.rates(full=True) == [0.01, 3.16e-3]
    assert [(t.learning_rate, t.full) for t in whole] == [(0.01, True), (3.16e-3, True)]


def test_a_rate_that_diverged_in_its_short_trial_gets_no_whole_run():
    problem = Problem(1e-5, diverges_above=1.1e-5)
    search(problem)
    assert problem.rates(full=True) == [1e-5, 3.16e-6]
    alone = Problem(1.0, diverges_above=0)
    search(alone)
    assert len(alone.rates(full=True)) == 1


@pytest.mark.parametrize(("optimum", "added"), [(1e-7, [1e-6, 1e-7, 1e-8]), (100.0, [10.0, 100.0, 1000.0])])
def test_a_best_rate_on_the_edge_extends_the_grid_to_that_side(optimum, added):
    problem = Problem(optimum)
    assert best(search(problem)).learning_rate == pytest.approx(optimum)
    assert problem.rates(full=False)[len(DECADES) : -2] == added


def test_the_grid_does_not_grow_for_ever():
    problem = Problem(1e-30)
    search(problem)
    assert len(problem.rates(full=False)) == len(DECADES) + MAX_EXTENSIONS + 2


def test_a_short_winner_that_diverges_later_gives_way_to_a_smaller_rate():
    problem = Problem(0.09, whole_diverges_above=0.02)
    assert best(search(problem)) == Trial(0.01, pytest.approx(0.9 * (1 + math.log10(9))), True)
    assert problem.rates(full=True)[:3] == [0.1, 0.0316, 0.01]


def test_whole_runs_are_limited():
    problem = Problem(0.1, whole_diverges_above=1e-9)
    whole = search(problem)
    assert len(problem.rates(full=True)) == len(whole) == MAX_WHOLE_RUNS
    assert best(whole).loss == math.inf


def test_where_everything_diverges_the_smallest_rate_is_given_with_an_infinite_loss():
    problem = Problem(0.1, diverges_above=0, whole_diverges_above=0)
    (found,) = search(problem)
    assert found.loss == math.inf
    assert found.learning_rate == min(problem.rates(full=False))


def test_of_equal_losses_the_smaller_rate_is_the_best():
    assert best([Trial(0.1, 1.0, False), Trial(0.01, 1.0, False)]).learning_rate == 0.01
