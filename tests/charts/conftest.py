"""What the tests of charts share: drawing one chart of some runs, in the style of print."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from matplotlib.figure import Figure

from fgbench import charts
from fgbench.charts.drawing.comparison import comparisons
from fgbench.charts.drawing.style import print_style
from fgbench.store.run_folder import RunFolder

Draw = Callable[..., "Figure | str"]


@pytest.fixture
def draw() -> Iterator[Draw]:
    """`draw("runtimes", run)` gives the chart's only figure, or the reason why there is none."""

    def only(name: str, *runs: RunFolder) -> Figure | str:
        (comparison,) = comparisons(runs)
        return charts.find(name).draw(comparison)

    with print_style():
        yield only
