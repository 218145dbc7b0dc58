"""The experiment on predictions: rows of what a process reports, and how far off they are."""

from __future__ import annotations

import pytest

from fgbench import architectures, methods
from fgbench.experiments.prediction import BACKPROP, METHODS, MODELS, findings, rows_of
from fgbench.running.arms import ArmSample, Samples
from fgbench.running.phases.cost import Counted
from fgbench.store.schema import Role


def test_it_has_twelve_models_that_there_are():
    assert len(set(MODELS)) == 12
    for arch, depth, _, _ in MODELS:
        found = architectures.find(arch)
        assert not found.depths or depth in found.depths
    assert methods.canonical_specs(METHODS) == METHODS


def counted(method: str, flops: int) -> Counted:
    counts = {"flops": flops, "bytes": 1, "operations": 1, "product_bytes": 0, "other_bytes": 0}
    rates = {
        "flops_per_second": 1.0,
        "bytes_per_second": 1.0,
        "random_per_second": 1.0,
        "launch_seconds": 1.0,
    }
    return Counted(method=method, **counts, **rates, random_numbers=0, floor_seconds=1.0)


def round_of(number: int) -> Samples:
    seconds = {"base": 1.0, BACKPROP: 4.0, "forward": 5.0}
    arms = [
        ArmSample(Role.BASE if m == "base" else Role.METHOD, m, number, place, False, 1, s)
        for place, (m, s) in enumerate(seconds.items())
    ]
    return Samples(tuple(arms))


def test_a_row_has_both_ratios_and_how_far_the_predicted_one_is_off():
    """Its launch is on top, on a CPU: 3 + 1 and 7 + 1 seconds of 1 + 1."""
    events = [counted("base", 1), counted(BACKPROP, 3), counted("forward", 7), *map(round_of, range(6))]
    backprop, forward = rows_of("a model", iter(events))
    assert (forward["r_predicted"], forward["ratio_predicted"]) == (4.0, 2.0)
    assert (forward["r_measured"], forward["ratio_measured"]) == pytest.approx((5.0, 1.25))
    assert forward["error"] == pytest.approx(0.6)
    assert backprop["error"] == 0


def test_the_reference_is_no_part_of_the_error():
    rows = [
        {"method": method, "error": error}
        for method, error in ((BACKPROP, 0.0), ("forward", -0.1), ("forward", 0.2), ("spsa", 0.3))
    ]
    found = findings(rows)
    assert (found["median_error"], found["largest_error"]) == pytest.approx((0.2, 0.3))
    assert found["median_error_by_method"] == pytest.approx({"forward": 0.15, "spsa": 0.3})
    assert not found["as_wanted"]
