"""Time against memory: a point a variant, the frontier, and T where there is one."""

from __future__ import annotations

import pandas as pd
import pytest

from fgbench.charts import find
from fgbench.charts.drawing.comparison import comparisons
from fgbench.summary.variants import frontier, marked
from tests.charts import made_up

BUDGET = 3000


def with_variants(root):
    group = made_up.group()
    folder = made_up.run(root, [group])
    rows = [
        {
            "method": method,
            "variant": f"{method}/{n}",
            "peak_bytes": 4000 // n,
            "beyond_bytes": 3000 // n,
            "r": n * r,
        }
        for method, r in zip(made_up.METHODS, (3.0, 6.0, 2.0), strict=True)
        for n in (1, 2, 4)
    ]
    table = marked(pd.DataFrame(rows).assign(group=group.name, seconds=1.0), BUDGET)
    folder.append("variants", *table.to_dict("records"))
    return folder


def test_a_point_for_each_variant_and_a_ring_for_each_that_is_taken(tmp_path):
    (comparison,) = comparisons([with_variants(tmp_path)])
    figure = find("time_against_memory").draw(comparison)
    ax, times = figure.axes
    filled, hollow, rings = (
        sum(
            len(c.get_offsets())
            for c in ax.collections
            if c.get_sizes()[0] == size and bool(len(c.get_facecolors())) is face
        )
        for size, face in ((26, True), (26, False), (110, False))
    )
    assert (filled, hollow, rings) == (6, 3, 3)
    assert "T to validation loss 1" in times.get_xlabel()
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_without_variants_it_says_so(tmp_path):
    (comparison,) = comparisons([made_up.run(tmp_path, [made_up.group()])])
    assert find("time_against_memory").draw(comparison) == "no variants under a memory budget"


def test_the_frontier_is_what_no_other_beats_in_both():
    rows = pd.DataFrame({"peak_bytes": [4, 1, 2, 3, 3, None], "r": [1.0, 4.0, 5.0, 3.0, 2.0, 0.5]})
    best = frontier(rows, "peak_bytes", "r")
    assert best.to_numpy().tolist() == [[1, 4.0], [3, 2.0], [4, 1.0]]


@pytest.mark.parametrize(("budget", "chosen"), [(10, ["a"]), (3, ["c"]), (0, [])])
def test_the_fastest_that_fits_is_chosen(budget, chosen):
    rows = pd.DataFrame(
        {
            "method": "m",
            "variant": ["a", "b", "c", "d"],
            "peak_bytes": [9, 2, 3, None],
            "r": [1.0, 3.0, 2.0, None],
        }
    )
    found = marked(rows, budget)
    assert list(found[found["chosen"]]["variant"]) == chosen
