"""What a step's time is spent on: R split into drawing, forward pass, backward pass and update."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts._comparison import Comparison
from fgbench.charts._parts import beside, name_rows, reference_line, rows_height
from fgbench.charts._style import new_figure
from fgbench.report.figures import number
from fgbench.summary.parts import ORDER

# Dark to light in the order of a step; "backward and update" is both.
SHADES = dict(zip(ORDER, ("#9a6b1f", "#1f5a8a", "#7a3b69", "#94617f", "#8a9a5b"), strict=True))


def _draw(comparison: Comparison) -> Figure | str:
    parts = comparison.tables["parts"]
    if parts.empty or parts["r"].isna().all():
        return "no timing of parts"
    methods = [m for m in comparison.methods if m in set(parts["method"])]
    off = parts.drop_duplicates("method")["off"].abs().max()
    lines = [
        comparison.sentence,
        f"Parts timed apart; their sum is within {off:.1%} of whole steps timed between them.",
    ]
    figure = new_figure("R of a training step, split into its parts", lines, rows_height(methods) + 0.4)
    ax = figure.subplots()
    for place, method in enumerate(methods):
        own = parts[parts["method"] == method]
        _bar(ax, place, own)
        beside(ax, place, number(own["r"].sum()))
    name_rows(ax, methods)
    present = [part for part in ORDER if part in set(parts["part"])]
    for part in present:
        ax.barh([0], [0], color=SHADES[part], label=part)
    ax.set_xlim(0, parts.groupby("method")["r"].sum().max() * 1.03)
    ax.set_xlabel("R: step time / base")
    reference_line(ax, 1.0, "base", vertical=True)
    figure.legend(loc="outside lower center", ncols=len(present), frameon=False)
    return figure


def _bar(ax, place: int, parts: pd.DataFrame) -> None:  # type: ignore[no-untyped-def]
    left = 0.0
    for part, r in zip(parts["part"], parts["r"], strict=True):
        ax.barh(place, r, left=left, height=0.5, color=SHADES[part], edgecolor="white", linewidth=0.6)
        left += r


chart = Chart(_draw, scope="group")
