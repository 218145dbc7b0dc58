"""A baseline's rows as runs: each once, with its own options and nothing else."""

from __future__ import annotations

import dataclasses

from fgbench.regression.rerun import configs_of
from tests.builders import config
from tests.regression.test_checking import ENTRY

LIKE = config(processes=7, max_measure_seconds=33.0)


def test_depths_that_share_the_rest_are_one_run_with_the_reference():
    entries = [
        dataclasses.replace(ENTRY, depth=depth, method=method)
        for depth in (1, 8)
        for method in ("forward", "spsa")
    ]
    (found,) = configs_of(entries, LIKE)
    assert (found.archs, found.depths, found.width, found.batch) == (("mlp",), (1, 8), 1024, 64)
    assert found.methods == ("backprop", "forward", "spsa")
    assert (found.threads, found.execution, found.dtype, found.dataset) == (2, "eager", "float32", "digits")
    assert (found.time, found.train) == (True, False)
    assert (found.processes, found.max_measure_seconds) == (7, 33.0)


def test_what_differs_in_more_than_depth_is_a_run_of_its_own():
    others = [
        {"batch": 8},
        {"execution": "compile"},
        {"threads": ""},
        {"arch": "cnn"},
        {"depth": 9, "method": "spsa"},
    ]
    entries = [ENTRY, *(dataclasses.replace(ENTRY, **other) for other in others)]
    found = configs_of(entries, LIKE)
    assert len(found) == 6
    assert {c.threads for c in found} == {2, None}
    listed = {
        (c.archs[0], d, c.batch, c.execution, m) for c in found for d in c.depths for m in c.methods[1:]
    }
    assert listed == {(c.arch, c.depth, c.batch, c.execution, c.method) for c in entries}


def test_as_many_samples_are_held_out_as_in_the_baseline():
    """They are part of the contract: with others, what is measured could never be compared with it."""
    quick, older = dataclasses.replace(ENTRY, validation_size="200"), dataclasses.replace(ENTRY, batch=8)
    assert [c.validation_size for c in configs_of([quick, older], LIKE)] == [200, LIKE.validation_size]


def test_a_ratio_that_a_baseline_holds_for_two_machines_is_measured_once():
    (found,) = configs_of([ENTRY, dataclasses.replace(ENTRY, device="another", torch="2.0")], LIKE)
    assert found.methods == ("backprop", "forward")
