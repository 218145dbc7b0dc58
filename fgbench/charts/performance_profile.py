"""Performance profile over a grid: how often a method is within a factor of the fastest to the target.

Dolan and Moré 2002. For each group and target, a method's expected time is divided by that of the fastest
method; the curve is the share of groups and targets for which the quotient is at most the factor.
"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import log_axis
from fgbench.charts.drawing.style import add_legend, height_over_legend, new_figure
from fgbench.measurement.statistics import expected_running_time
from fgbench.report.figures import target_words

LEAST_PROBLEMS = 3  # with fewer groups and targets a table says the same


def _draw(comparison: Comparison) -> Figure | str:
    if comparison.tables["every_target"].empty:
        return "no training" if comparison.tables["curves"].empty else "no target"
    times = expected_times(comparison)
    problems = len(times)
    if problems < LEAST_PROBLEMS:
        return f"fewer than {LEAST_PROBLEMS} targets and depths"
    factors = times.div(times.min(axis=1), axis=0)
    highest = max(2.0, *(f for f in factors.to_numpy().ravel() if math.isfinite(f)))
    note = f"{problems} targets and depths that some method reached. At 1: how often it is the fastest."
    title = "Share of targets reached within a factor of the fastest method's time"
    figure = new_figure(title, [comparison.sentence, note], height_over_legend(comparison.methods))
    ax = figure.subplots()
    for method in comparison.methods:
        own = sorted(f for f in factors[method] if math.isfinite(f)) if method in factors else []
        look = comparison.looks[method]
        x = [1.0, *own, highest * 1.5]
        y = [0.0, *((i + 1) / problems for i in range(len(own))), len(own) / problems]
        ax.step(x, y, where="post", color=look.colour, linestyle=look.line, label=method)
    log_axis(ax, "x", [1.0, highest])
    ax.set(ylim=(-0.03, 1.03), xlabel="Factor of the fastest expected time", ylabel="Share of targets")
    ax.grid(axis="y")
    add_legend(figure, ax, comparison.methods)
    return figure


def expected_times(comparison: Comparison) -> pd.DataFrame:
    """Expected running time by group and target (rows) and method (columns), without unreached targets."""
    targets = comparison.tables["every_target"]
    named = targets.assign(problem=[target_words(row) for row in targets.to_dict("records")])
    found = {
        key: expected_running_time(list(own["seconds"].astype(float)), list(own["outcome"] == "reached"))
        for key, own in named.groupby(["run", "group", "problem", "method"], sort=False)
    }
    if not found:
        return pd.DataFrame()
    wide = pd.Series(found).unstack().fillna(math.inf)
    return wide[wide.min(axis=1).map(math.isfinite)]


chart = Chart(_draw)
