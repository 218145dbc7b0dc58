"""Charts: what a folder of runs says, drawn as a paper would print it.

One file a chart: `fgbench/charts/runtimes.py` assigns `chart = Chart(…)` and is found by being there.
What charts share is in `drawing/`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fgbench.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fgbench.charts.drawing.comparison import Comparison
    from fgbench.store.run_folder import RunFolder

Each = Callable[..., Iterable[Any]]  # like `map`: calls a function with each of a list
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
    """What became of one chart: the file that was written, or the reason why it was left out.

    `of` says what was compared on what, as in the file's name; empty for a reason that holds for all.
    """

    chart: str
    path: Path | None = None
    reason: str = ""
    of: str = ""


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

    runs = find_runs(source) if isinstance(source, Path) else source
    with _side_by_side(processes, sum(len(run.facts()["groups"]) for run in runs)) as each:
        return _draw_each(comparisons(runs, each), out, format, each)


def draw_comparisons(
    found: Sequence[Comparison], out: Path, format: str = "png", *, processes: int = 1
) -> list[Drawn]:
    """Draw every chart of comparisons that were read already, as `draw_all` does."""
    with _side_by_side(processes, sum(len(comparison.depths) for comparison in found)) as each:
        return _draw_each(found, out, format, each)


@contextmanager
def _side_by_side(processes: int, groups: int) -> Iterator[Each]:
    """`map`, or for many groups one that calls in several processes."""
    if processes == 1 or groups < MANY_GROUPS:
        yield map
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool.map


def _draw_each(found: Sequence[Comparison], out: Path, format: str, each: Each) -> list[Drawn]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        largest_first = sorted(found, key=lambda comparison: -len(comparison.depths))  # no process waits long
        drawings = each(partial(_draw, out=out, format=format), largest_first)
        drawn = [one for of_one in drawings for one in of_one]
    except OSError as error:
        raise UsageError(
            f"--out {out}: cannot be written ({error.strerror}); name a folder that can be written."
        ) from error
    return [told for name in names() for told in _told(name, [one for one in drawn if one.chart == name])]


def _draw(whole: Comparison, out: Path, format: str) -> list[Drawn]:
    """Every chart of a comparison, or of each of its groups."""
    from fgbench.charts.drawing.style import print_style, save

    drawn = []
    with print_style():
        for name in names():
            chart = find(name)
            for comparison in whole.by_depth if chart.scope == "group" else [whole]:
                drawing = chart.draw(comparison)
                if isinstance(drawing, str):
                    drawn.append(Drawn(name, reason=drawing, of=comparison.slug))
                    continue
                path = out / f"{name}_{comparison.slug}.{format}"
                save(drawing, path)
                drawn.append(Drawn(name, path, of=comparison.slug))
    return drawn


def _told(name: str, drawn: Sequence[Drawn]) -> list[Drawn]:
    """What became of one chart's figures; where all were left out for the same reason, that is said once."""
    reasons = {one.reason for one in drawn}
    if len(reasons) <= 1 and not any(one.path for one in drawn):
        return [Drawn(name, reason=f"{reasons.pop() if reasons else 'nothing measured'} in these runs")]
    return [one if one.path else replace(one, reason=f"{one.reason} in {one.of}") for one in drawn]
