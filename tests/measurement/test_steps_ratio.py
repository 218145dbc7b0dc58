"""Steps by length and direction against exact gradient descent."""

from __future__ import annotations

import math

import pytest

from fgbench.measurement.steps_ratio import Mean, Worth, mean_of, steps_ratio


def worth(moment: float, along: float = 1.0, error: float = 0.0, unbiased: bool = True) -> Worth:
    return Worth(Mean(moment, error), Mean(along, 0.0), unbiased)


def test_steps_ratio_is_that_of_gradient_descent_on_a_sphere():
    """½‖x‖²: the expected loss shrinks by 1 − 1/M a step at the best rate (REFERENCES, Flügel's sphere)."""
    n, k = 1024, 4
    moment = (n + k + 1) / k
    ratio = steps_ratio(worth(moment), worth(1.0)).value
    assert ratio == pytest.approx(moment)
    # Steps until the loss is a thousandth, by the exact shrinkage; the reference's is a step's Newton jump.
    steps = math.log(1000) / -math.log(1 - 1 / moment)
    assert steps == pytest.approx(ratio * math.log(1000), rel=0.01)


def test_steps_ratio_of_a_biased_estimate_counts_how_far_it_goes_along_the_gradient():
    """A gradient at twice the length is as good as the gradient."""
    twice = worth(4.0, along=2.0, unbiased=False)
    assert steps_ratio(twice, worth(1.0)).value == pytest.approx(1.0)
    shorter = steps_ratio(worth(3.0, along=0.5, error=0.3, unbiased=False), worth(1.0))
    assert (shorter.value, shorter.error) == pytest.approx((12.0, 1.2))


def test_steps_ratio_without_a_figure_is_none():
    assert math.isnan(steps_ratio(worth(math.nan), worth(1.0)).value)


def test_estimates_that_were_all_zero_predict_nothing():
    """As where one layer is drawn a step, and its gradient is zero, as of half of LoRA's factors at first."""
    assert math.isnan(steps_ratio(worth(0.0), worth(1.0)).value)
    assert math.isnan(steps_ratio(worth(1.0), worth(0.0)).value)
    assert math.isnan(steps_ratio(worth(1.0, along=0.0, unbiased=False), worth(1.0)).value)
    assert math.isnan(Mean(0.0, 0.0).share)


def test_a_mean_of_means_has_the_error_of_independent_ones():
    found = mean_of([Mean(1.0, 0.3), Mean(3.0, 0.4)])
    assert (found.value, found.error) == pytest.approx((2.0, 0.25))
    assert math.isnan(mean_of([]).value)
