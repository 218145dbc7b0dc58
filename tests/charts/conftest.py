"""What the tests of charts share: drawing one chart of some runs, in the style of print."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from matplotlib.figure import Figure

from fgbench import charts
from fgbench.charts.drawing.comparison import Comparison, comparisons
from fgbench.charts.drawing.style import print_style
from fgbench.store.run_folder import RunFolder

Draw = Callable[..., "Figure | str"]
KNOWN: dict[object, list[Comparison]] = {}


def compared(run: RunFolder) -> list[Comparison]:
    """A run's comparisons; those of equal tables serve several charts, as they do in a report."""
    facts = {name: value for name, value in run.facts().items() if name not in ("id", "started")}
    tables = [(table.name, table.read_bytes()) for table in sorted(run.path.glob("*.csv"))]
    key = repr(facts), *tables
    return KNOWN.get(key) or KNOWN.setdefault(key, comparisons([run]))


@pytest.fixture
def draw() -> Iterator[Draw]:
    """`draw("runtimes", run)` gives the chart's only figure, or the reason why there is none."""

    def only(name: str, *runs: RunFolder) -> Figure | str:
        (comparison,) = comparisons(runs) if runs[1:] else compared(*runs)
        return charts.find(name).draw(comparison)

    with print_style():
        yield only
