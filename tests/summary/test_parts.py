"""R split into the parts of a step."""

from __future__ import annotations

import pytest

from fgbench.summary.parts import split
from tests.builders import run_folder, tiny_group

GROUP = tiny_group()


def stored(tmp_path, rows, r=3.0):
    folder = run_folder(tmp_path, [GROUP])
    cells = {"group": GROUP.name, "method": "m", "role": "method", "reference": "m", "seconds": 1.0}
    folder.append("ratios", {**cells, "r": r, "r_low": r, "r_high": r, "processes": 1, "rounds": 6})
    folder.append(
        "parts",
        *({"group": GROUP.name, "method": "m", "process": p, "part": n, "seconds": s} for p, n, s in rows),
    )
    return folder


def test_shares_of_r_by_the_median_over_processes(tmp_path):
    rows = [(p, "update", 1.0 + p) for p in range(3)] + [(p, "forward", 6.0) for p in range(3)]
    rows += [(p, "whole", 10.0) for p in range(3)]
    found = split(stored(tmp_path, rows, r=4.0)).set_index("part")
    assert found.loc["forward", "r"] == pytest.approx(4 * 6 / 8)
    assert found.loc["update", "seconds"] == 2.0
    assert found["share"].sum() == pytest.approx(1)
    assert found["off"].tolist() == pytest.approx([-0.2, -0.2])


def test_parts_are_in_the_order_of_a_step(tmp_path):
    names = ("update", "whole", "backward", "draw", "forward")
    assert split(stored(tmp_path, [(0, n, 1.0) for n in names]))["part"].tolist() == [
        "draw",
        "forward",
        "backward",
        "update",
    ]


def test_nothing_timed_is_an_empty_table(tmp_path):
    assert split(run_folder(tmp_path, [GROUP])).empty
