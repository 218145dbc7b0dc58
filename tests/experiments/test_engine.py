"""The engine's suite: what it asks for exists, and its table says what was measured."""

from __future__ import annotations

import pandas as pd
import pytest

from fgbench import architectures, methods
from fgbench.experiments.engine import BACKPROP, CASES, Case, Goal, _rows, show


def summary(**r: float) -> pd.DataFrame:
    own = {"status": "ok", "update": "direct"}
    rows = [{"method": m, "r": v, "ratio": v / r["backprop"], **own} for m, v in r.items()]
    return pd.DataFrame(rows)


def test_every_case_names_what_there_is():
    for case in CASES:
        architectures.find(case.arch)
        for spec in (BACKPROP, *(goal.method for goal in case.goals)):
            assert methods.canonical_specs([spec]) == (spec,)


def test_ratio_is_over_backprop_whose_update_is_said_and_r_is_per_tangent():
    case = Case("mlp", 8, 64, (Goal("forward", 1.0, 0.6, per_tangent=16),))
    (row,) = _rows(case, summary(backprop=3.0, forward=24.0))
    assert row["r"] == 1.5
    assert row["ratio"] == 8.0
    assert row["over"] == "direct"


@pytest.mark.parametrize("target", [0.5, None])
def test_the_table_shows_found_and_asked(capsys, target):
    case = Case("mlp", 8, 64, (Goal("forward", target, 0.6),))
    show(pd.DataFrame(_rows(case, summary(backprop=4.0, forward=2.0))))
    shown = capsys.readouterr().out
    assert "0.500" in shown
    assert ("≤ 0.5" in shown) == (target is not None)
