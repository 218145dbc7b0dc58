"""Charts: what a folder of runs says, drawn as a paper would print it.

One file a chart: `fgbench/charts/runtimes.py` assigns `chart = Chart(…)` and is found by being there.
A file whose name begins with an underscore is shared by charts and is none.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fgbench.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fgbench.charts.drawing.comparison import Comparison
    from fgbench.store.run_folder import RunFolder

FORMATS = ("png", "svg", "pdf")
MANY_GROUPS = 8  # from so many on, processes that draw side by side are worth their start


@dataclass(frozen=True)
class Chart:
    """A kind of chart.

    Attributes:
        draw: gives the figure of a comparison, or in a few words the reason why there is none.
        scope: whether one figure shows all `depths` of a comparison, or a single `group`.
    """

    draw: Callable[[Comparison], Figure | str]
    scope: Literal["depths", "group"] = "depths"


@dataclass(frozen=True)
class Drawn:
    """What became of one chart: the file that was written, or the reason why it was left out."""

    chart: str
    path: Path | None = None
    reason: str = ""


@cache
def names() -> tuple[str, ...]:
    """The charts, sorted, found without importing their code."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple(file.stem for file in files if not file.stem.startswith("_"))


def find(name: str) -> Chart:
    """The chart of that name."""
    chart: Chart = importlib.import_module(f"{__name__}.{name}").chart
    return chart


def draw_all(
    source: Path | Sequence[RunFolder], out: Path, format: str = "png", *, processes: int = 1
) -> list[Drawn]:
    """Draw every chart of a folder of runs, or of some runs, into the folder `out`.

    Groups that differ in more than depth, and runs that measured the same thing twice, never share
    a figure; what a figure shows is in its title and in its file's name.

    Args:
        source: a run's folder, one that holds many, or runs.
        out: made where it is not there.
        format: one of `FORMATS`.
        processes: that draw side by side where there is much to draw. They are spawned, so more than one
            needs a program whose main module can be imported.

    Raises:
        ResultsError: no run, or a damaged one.
        UsageError: an unknown format, or a folder that cannot be written.
    """
    if format not in FORMATS:
        raise UsageError(f"--format {format}: must be one of {', '.join(FORMATS)}.")
    from fgbench.charts.drawing.comparison import comparisons
    from fgbench.store.run_folder import find_runs

    found = comparisons(find_runs(source) if isinstance(source, Path) else source)
    return draw_comparisons(found, out, format, processes=processes)


def draw_comparisons(
    found: Sequence[Comparison], out: Path, format: str = "png", *, processes: int = 1
) -> list[Drawn]:
    """Draw every chart of comparisons that were read already, as `draw_all` does."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        draw = partial(_draw, found=found, out=out, format=format)
        if processes == 1 or sum(len(comparison.depths) for comparison in found) < MANY_GROUPS:
            return [drawn for name in names() for drawn in draw(name)]
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            return [drawn for of_chart in pool.map(draw, names()) for drawn in of_chart]
    except OSError as error:
        raise UsageError(
            f"--out {out}: cannot be written ({error.strerror}); name a folder that can."
        ) from error


def _draw(name: str, found: Sequence[Comparison], out: Path, format: str) -> list[Drawn]:
    """Every figure of one chart, and each reason for one that is left out once."""
    from fgbench.charts.drawing.style import print_style, save

    chart = find(name)
    shown = [c for whole in found for c in (whole.by_depth if chart.scope == "group" else [whole])]
    with print_style():
        drawings = [(comparison, chart.draw(comparison)) for comparison in shown]
        reasons = {drawing for _, drawing in drawings if isinstance(drawing, str)}
        if all(isinstance(drawing, str) for _, drawing in drawings) and len(reasons) <= 1:
            return [Drawn(name, reason=f"{reasons.pop() if reasons else 'nothing measured'} in these runs")]
        drawn = []
        for comparison, drawing in drawings:
            if isinstance(drawing, str):
                drawn.append(Drawn(name, reason=f"{drawing} in {comparison.slug}"))
            else:
                path = out / f"{name}_{comparison.slug}.{format}"
                save(drawing, path)
                drawn.append(Drawn(name, path))
        return drawn
