"""The share of seeds that have reached the target by a given time, which an expected time does not show."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from fgbench.charts import Chart
from fgbench.charts.drawing.comparison import Comparison
from fgbench.charts.drawing.parts import log_axis, other_targets
from fgbench.charts.drawing.style import add_legend, height_over_legend, new_figure
from fgbench.measurement.statistics import survival
from fgbench.report.figures import target_words
from fgbench.summary.targets import CENSORED, DIVERGED, REACHED

NOTE = "Kaplan–Meier: a run cut short (|) counts until then, one that diverged (×) for good."


def _draw(comparison: Comparison) -> Figure | str:
    targets = comparison.tables["targets"]
    if targets.empty:
        return "no training" if comparison.tables["curves"].empty else "no target"
    if not (targets["outcome"] == REACHED).any():
        return "no seed reached the target"
    seeds = targets["seed"].nunique()
    lines = [
        comparison.sentence,
        f"{seeds} seed{'s' if seeds > 1 else ''}. {NOTE} {other_targets(comparison)}",
    ]
    title = f"Share of seeds that reached {target_words(targets.iloc[0])}"
    figure = new_figure(title, lines, height_over_legend(comparison.methods))
    ax = figure.subplots()
    times = targets["seconds"].astype(float)
    low, high = times[times > 0].min(), times.max()
    for method in comparison.methods:
        own, look = targets[targets["method"] == method], comparison.looks[method]
        if own.empty:
            continue
        reached = list(own["outcome"] == REACHED)
        spent = list(own["seconds"].mask(own["outcome"] == DIVERGED, math.inf))
        at, left = survival(spent, reached)
        share = [0.0, *(1 - p for p in left)]
        ax.step(
            [low / 2, *at, high * 2],
            [*share, share[-1]],
            where="post",
            color=look.colour,
            linestyle=look.line,
            label=method,
        )
        for mark, name, outcomes in (("|", "_ended", [CENSORED]), ("x", "_never", [DIVERGED])):
            ended = sorted(own[own["outcome"].isin(outcomes)]["seconds"])
            heights = [share[sum(t <= s for t in at)] for s in ended]
            ax.plot(ended, heights, mark, color=look.colour, markersize=9, label=f"{name} {method}")
    log_axis(ax, "x", [low, high])
    ax.set(ylim=(-0.03, 1.03), xlabel="Training seconds (evaluation excluded)", ylabel="Share of seeds")
    ax.grid(axis="y")
    add_legend(figure, ax, comparison.methods)
    return figure


chart = Chart(_draw, scope="group")
