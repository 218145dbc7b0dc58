"""How well k forward gradients approximate the gradient's direction and length (Flügel et al. 2024, §4.1).

The gradient's direction is drawn uniformly from the sphere. The theory is then exact for projections onto
the span of any tangents, and for Gaussian tangents however they are combined.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import gammaln

from fgbench.charts.drawing.parts import log_axis
from fgbench.charts.drawing.style import INK, new_figure, print_style, save
from fgbench.errors import UsageError
from fgbench.measurement.statistics import Estimate, mean_interval
from fgbench.methods.steps.oracle import cosine, norm
from fgbench.pushforward.combine import WAYS, coefficients, draw_independent
from fgbench.pushforward.structures import FULL_STRUCTURES, Drawer
from fgbench.reproduction.suite import Note
from fgbench.store.csv_table import replace_text

TABLE = "approximation.csv"
FIGURES = ("cosine", "norm")
EXCESS = "excess"
ENDS = ("", "_low", "_high")  # endings of a figure's three columns
PANELS = (("cosine", "mean"), ("cosine", "projection"), ("norm", "mean"), ("norm", "sum"))
PIECE = 4096  # the gradient is cut into tensors of so many entries, whose copies in float64 stay small
PANEL_INCHES, ROOM_FOR_INTERVALS, LEGEND_COLUMNS = 2.3, 1.5, 6
POINT: dict[str, Any] = {
    "marker": "o",
    "markersize": 3.5,
    "linestyle": "none",
    "elinewidth": 0.9,
    "capsize": 1.5,
    "zorder": 3,
}
CLAIM: dict[str, Any] = {"marker": "D", "color": INK, "fillstyle": "none", "linestyle": "none", "zorder": 4}

# Measured on one core of an AMD EPYC, for the expected seconds.
SECONDS_PER_DRAW, SECONDS_PER_ENTRY, SECONDS_PER_GRAM_PRODUCT = 4e-4, 4e-9, 6e-11


@dataclass(frozen=True)
class GridPoint:
    """A row of the table; `used` is the number of tangents drawn, the smaller of k and n."""

    structure: str
    way: str
    n: int
    k: int
    used: int
    draws: int
    cosine: Estimate
    norm: Estimate

    @property
    def key(self) -> str:
        """The beginning of the keys of its figures."""
        return _key(self.structure, self.way, self.n, self.k)

    def figure(self, name: str) -> Estimate:
        """One of `FIGURES`."""
        return {"cosine": self.cosine, "norm": self.norm}[name]


def _key(structure: str, way: str, n: int, k: int) -> str:
    return f"{structure}/{way}/n={n}/k={k}"


def _has_theory(structure: str, way: str) -> bool:
    return way == "projection" or structure == "gaussian"


def expected_cosine(k: float, n: float, way: str = "projection") -> float:
    """Expected cosine similarity of the gradient and its estimate from k ≤ n Gaussian tangents in Rⁿ.

    χ̄_k/χ̄_n for `projection` (Flügel et al. 2024, §4.1), χ̄_m = √2 Γ((m+1)/2)/Γ(m/2) being the mean of the
    χ distribution. χ̄_k/χ̄_{n+k−1} for `mean` and `sum`: with z = the k derivatives over |∇f|, the sum is
    |z|² along ∇f and |z| times n − 1 standard normal numbers across it, and so the squared cosine is
    Beta(k/2, (n−1)/2).
    """
    return _mean_of_chi(k) / _mean_of_chi(n if way == "projection" else n + k - 1)


def expected_norm(k: float, n: float, way: str) -> float:
    """Expected length of the estimate over the gradient's, from k ≤ n Gaussian tangents in Rⁿ.

    A projection's length is its cosine. A sum's length is n + k − 1 times its cosine, in expectation: the
    squared length is the squared cosine times the square of an independent χ² variable with n + k − 1
    degrees of freedom.
    """
    factor = {"projection": 1.0, "sum": n + k - 1, "mean": (n + k - 1) / k}[way]
    return factor * expected_cosine(k, n, way)


def _mean_of_chi(m: float) -> float:
    return math.sqrt(2) * math.exp(gammaln((m + 1) / 2) - gammaln(m / 2))


def seconds(settings: Mapping[str, Any]) -> float:
    """About how long `measure` takes on one CPU core, in seconds."""
    return sum(_seconds(settings, n, k) for _, n, k in _points(settings))


def measure(settings: Mapping[str, Any], folder: Path, note: Note) -> None:
    """Estimate random gradients from random tangents; write `approximation.csv`, a row for each point.

    Args:
        settings: `dimensions`, `tangents`, `ways`, `structures` and `draws`; `angle`, in degrees, of the
            structure `fixed-angle`, 45 where it is not given. Where there are more tangents than
            dimensions, only as many as dimensions are drawn, as in the paper.
        folder: an existing folder.
        note: is told which point comes next and what share of the work is done.

    Raises:
        UsageError: a way or a structure is unknown, or the structure needs matrices, as rank-one does.
        ValueError: no independent tangents were found (`draw_independent`).
    """
    _check(settings)
    whole, done = seconds(settings), 0.0
    points: list[GridPoint] = []
    for structure, n, used in _points(settings):
        note(f"{structure}, n = {n}, k = {used}", done / whole)
        for way, found in _draws(settings, structure, n, used).items():
            means = [mean_interval(found[name]) for name in FIGURES]
            asked = (k for k in settings["tangents"] if min(k, n) == used)
            points += [GridPoint(structure, way, n, k, used, settings["draws"], *means) for k in asked]
        done += _seconds(settings, n, used)
    _write(folder / TABLE, points)


def figure_names(settings: Mapping[str, Any]) -> set[str]:
    """The keys that `figures` gives; raises as `measure`."""
    _check(settings)
    return {
        f"{_key(structure, way, n, k)}/{figure}"
        for structure in settings["structures"]
        for way in settings["ways"]
        for n in settings["dimensions"]
        for k in settings["tangents"]
        for figure in (*FIGURES, *([EXCESS] if _has_theory(structure, way) else []))
    }


def figures(folder: Path) -> dict[str, Estimate]:
    """Means over draws with 95 % t-intervals, by `structure/way/n=N/k=K/` and one of three names.

    The names are `cosine`; `norm`, the estimate's length over the gradient's; and, where theory is exact,
    `excess`, the cosine over its expectation.
    """
    found = {}
    for point in _read(folder / TABLE):
        for name in FIGURES:
            found[f"{point.key}/{name}"] = point.figure(name)
        if _has_theory(point.structure, point.way):
            theory = expected_cosine(point.used, point.n, point.way)
            found[f"{point.key}/{EXCESS}"] = Estimate(*(x / theory for x in astuple(point.cosine)))
    return found


def draw(folder: Path, out: Path, claims: Mapping[str, float]) -> list[Path]:
    """Draw a chart for each structure: cosine by n, length by n/k, and theory as a line for each k.

    Args:
        folder: holds `approximation.csv`.
        out: an existing folder, which gets the charts.
        claims: published values by figure key, drawn as hollow diamonds.
    """
    points = [point for point in _read(folder / TABLE) if point.used == point.k]  # the others repeat k = n
    paths = []
    with print_style():
        for structure in dict.fromkeys(point.structure for point in points):
            paths.append(out / f"approximation_{structure}.png")
            save(_chart(structure, [c for c in points if c.structure == structure], claims), paths[-1])
    return paths


def _points(settings: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Every structure, n and number of tangents that is drawn; each is drawn only once."""
    for structure in settings["structures"]:
        for n in settings["dimensions"]:
            for used in sorted({min(k, n) for k in settings["tangents"]}):
                yield structure, n, used


def _seconds(settings: Mapping[str, Any], n: int, k: int) -> float:
    gram = SECONDS_PER_GRAM_PRODUCT * n * k * k if "projection" in settings["ways"] else 0.0
    return float(settings["draws"] * (SECONDS_PER_DRAW + SECONDS_PER_ENTRY * n * k + gram))


def _check(settings: Mapping[str, Any]) -> None:
    for name, given, known in (
        ("structure", settings["structures"], FULL_STRUCTURES),
        ("way", settings["ways"], WAYS),
    ):
        for value in given:
            if value not in known:
                raise UsageError(f"approximation: no {name} '{value}': choose from {', '.join(known)}.")


def _draws(settings: Mapping[str, Any], structure: str, n: int, k: int) -> dict[str, dict[str, list[float]]]:
    """The values of all draws, by way and figure; all ways see the same gradients and tangents."""
    # Random numbers depend on the point alone, not on what else is measured.
    first, second = np.random.SeedSequence([*structure.encode(), n, k]).generate_state(2)
    generator = torch.Generator().manual_seed(int(first))
    pieces = torch.zeros(n).split(PIECE)
    drawer = Drawer(
        {str(i): piece for i, piece in enumerate(pieces)},
        k,
        structure,
        int(second),
        angle=settings.get("angle", 45.0),
    )
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: {name: [] for name in FIGURES})
    for _ in range(settings["draws"]):
        gradient = torch.randn(n, generator=generator).split(PIECE)
        tangents = draw_independent(drawer)
        parts = list(tangents.by_name.values())
        drawn = torch.stack([t.full() @ g for t, g in zip(parts, gradient, strict=True)]).sum(0)
        derivatives = tangents.directional(drawn)
        for way in settings["ways"]:
            weights = tangents.onto_drawn(coefficients(way, derivatives, tangents))
            estimate = [torch.zeros_like(g) for g in gradient]
            for part, total in zip(parts, estimate, strict=True):
                part.add_to(total, weights)
            found[way]["cosine"].append(cosine(estimate, gradient))
            found[way]["norm"].append(norm(estimate) / norm(gradient))
    return found


def _write(path: Path, points: Sequence[GridPoint]) -> None:
    rows = []
    for point in points:
        ends = {
            name + end: value
            for name in FIGURES
            for end, value in zip(ENDS, astuple(point.figure(name)), strict=True)
        }
        rows.append({**{f: v for f, v in vars(point).items() if f not in FIGURES}, **ends})
    replace_text(path, pd.DataFrame(rows).to_csv(index=False))


def _read(path: Path) -> list[GridPoint]:
    points = []
    for row in pd.read_csv(path).to_dict("records"):
        values: dict[str, Any] = {str(column): value for column, value in row.items()}
        means = {name: Estimate(*(values.pop(name + end) for end in ENDS)) for name in FIGURES}
        points.append(GridPoint(**{**values, **means}))
    return points


def _chart(structure: str, points: Sequence[GridPoint], claims: Mapping[str, float]) -> Figure:
    panels = [panel for panel in PANELS if panel[1] in {point.way for point in points}]
    lines = [
        f"Means over {points[0].draws} draws of a gradient and of k tangents in Rⁿ, with 95 % t-intervals.",
        r"Theory's cosine: $\bar\chi_k/\bar\chi_n$ projected, $\bar\chi_k/\bar\chi_{n+k-1}$ else (Gaussian).",
    ]
    title = f"{structure.capitalize()} tangents: direction and length of the estimated gradient"
    rows = math.ceil(len(panels) / 2)
    figure = new_figure(title, lines, PANEL_INCHES * rows + 0.5)
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)
    colours = _colours(sorted({point.k for point in points}))
    for ax, (name, way) in zip(axes, panels, strict=False):
        _panel(ax, name, [point for point in points if point.way == way], colours, claims)
        ax.set_title(way, size=9)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    axes[0].plot([], [], color=INK, linewidth=1, label="theory")
    if any(f"{point.key}/{name}" in claims for point in points for name in FIGURES):
        axes[0].plot([], [], label="claimed", **CLAIM)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=LEGEND_COLUMNS)
    return figure


def _panel(
    ax: Axes,
    name: str,
    points: Sequence[GridPoint],
    colours: Mapping[int, Any],
    claims: Mapping[str, float],
) -> None:
    """Draw cosine by n, or length by n/k, with a colour for each k."""
    expected = {"cosine": expected_cosine, "norm": expected_norm}[name]
    for k, colour in colours.items():
        own = [point for point in points if point.k == k]
        if not own:
            continue
        unit = 1 if name == "cosine" else k
        sizes = np.geomspace(min(c.n for c in own), max(c.n for c in own), 100)
        theory = [expected(k, n, own[0].way) for n in sizes]
        ax.plot(sizes / unit, theory, color=colour, linewidth=1, zorder=2)
        for point in own:
            found = point.figure(name)
            reach = [[found.value - found.low], [found.high - found.value]] if found.has_interval else None
            label = f"k = {k}" if point is own[0] else None
            ax.errorbar([point.n / unit], [found.value], reach, color=colour, label=label, **POINT)
            if claim := claims.get(f"{point.key}/{name}"):
                ax.plot([point.n / unit], [claim], **CLAIM)
    log_axis(ax, "x", [point.n / (1 if name == "cosine" else point.k) for point in points])
    values = [point.figure(name).value for point in points]
    log_axis(ax, "y", [min(values) / ROOM_FOR_INTERVALS, max(values)])
    ax.set_xlabel("n" if name == "cosine" else "n / k")
    ax.set_ylabel("Cosine with ∇f" if name == "cosine" else "|estimate| / |∇f|")
    ax.grid()


def _colours(counts: Sequence[int]) -> dict[int, Any]:
    """A shade for each k, from dark to light; the lightest is left out, as it vanishes on paper."""
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(counts)))
    return dict(zip(counts, shades, strict=True))
