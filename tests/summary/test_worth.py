"""What a step is worth, of rows that a test wrote."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from fgbench.measurement.statistics import t_quantile
from fgbench.store.run_folder import RunFolder
from fgbench.summary.table import summarise
from tests.builders import run_folder, tiny_group

GROUP = tiny_group()


def row(method: str, weights: str, moment: float, **changes: Any) -> dict[str, Any]:
    plain = {
        "group": GROUP.name,
        "method": method,
        "weights": weights,
        "iteration": 0,
        "layer": "all",
        "draws": 8,
        "cosine": 1 / moment,
        "second_moment": moment,
        "second_moment_large": 2 * moment,
        "second_moment_large_error": 0.2 * moment,
        "along_large": 1.0,
        "along_large_error": 0.5,
        "unbiased": True,
        "status": "ok",
    }
    return {**plain, **changes}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return run_folder(tmp_path, [GROUP])


def test_figures_are_means_along_the_references_training(folder):
    folder.append(
        "quality",
        *(row("backprop", weights, 1.0) for weights in ("start", "backprop")),
        *(row("forward", "start", 100.0), row("forward", "backprop", 200.0)),
        row("forward", "forward", 9e9),  # its own
        row("forward", "start", 9e9, layer="fc"),
    )
    table = summarise(folder).set_index("method")
    assert table.loc["forward", ["cosine", "second_moment"]].tolist() == pytest.approx([0.0075, 150.0])
    assert table.loc["backprop", ["cosine", "second_moment", "n_predicted"]].tolist() == [1, 1, 1]
    # Of 100 and 200, each with errors of a tenth on both sides: four terms of 7 degrees of freedom each.
    v = 0.1**2 / (1 - 0.1**2)
    ratio, reach = math.sqrt(100 * 200), math.exp(t_quantile(4 * 7) * math.sqrt(v + v**2 / 2))
    found = table.loc["forward", ["n_predicted", "n_predicted_low", "n_predicted_high"]].tolist()
    assert found == pytest.approx([ratio, ratio / reach, ratio * reach], rel=1e-6)


@pytest.mark.parametrize("lacks", ["the row", "the figures"])
def test_a_method_that_lacks_a_point_has_no_mean_to_stand_beside_the_others(folder, lacks):
    nothing = dict.fromkeys(("cosine", "second_moment", "second_moment_large"))
    folder.append(
        "quality",
        *(row("backprop", weights, 1.0) for weights in ("start", "backprop")),
        row("forward", "start", 100.0),
        *([row("forward", "backprop", 1.0, **nothing)] if lacks == "the figures" else []),
    )
    table = summarise(folder).set_index("method")
    names = ["cosine", "second_moment", "n_predicted", "n_predicted_low", "n_predicted_high"]
    assert table.loc["forward", names].isna().all()
    assert table.loc["backprop", names].notna().all()


def test_a_biased_method_is_judged_by_how_far_it_goes_along(folder):
    folder.append(
        "quality",
        row("backprop", "start", 1.0),
        row("forward", "start", 4.0, along_large=2.0, along_large_error=1.0, unbiased=False),
    )
    assert summarise(folder).set_index("method").loc["forward", "n_predicted"] == pytest.approx(1.0)


def test_derivatives_that_are_not_finite_are_counted_at_its_own_weights_too(folder):
    folder.append(
        "quality",
        row("backprop", "start", 1.0, non_finite=0.0),
        row("forward", "start", 1.0, non_finite=0.0, draws=8),
        row("forward", "backprop", 1.0, non_finite=0.0, draws=8),
        row("forward", "forward", 1.0, non_finite=0.5, draws=16),
        row("forward", "forward", 1.0, non_finite=1.0, layer="fc"),
        row("forward", "spsa", 1.0, draws=8),
    )
    table = summarise(folder).set_index("method")
    assert table["non_finite"].to_dict() == {"backprop": 0.0, "forward": 0.25}


def test_without_rows_or_figures_nothing_is_claimed(folder):
    names = ["cosine", "second_moment", "n_predicted", "n_predicted_low", "non_finite"]
    assert summarise(folder)[names].isna().all(axis=None)
    nothing = dict.fromkeys(("cosine", "second_moment", "second_moment_large"))
    folder.append("quality", row("backprop", "start", 1.0), row("forward", "start", 1.0, **nothing))
    table = summarise(folder).set_index("method")
    assert table.loc["forward", names].isna().all()
    assert pd.notna(table.loc["backprop", "cosine"])
