"""The results page in Markdown: experiments, depth, memory, time to target, the papers' claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fgbench.charts.drawing.comparison import Comparison
from fgbench.page.collecting import Found
from fgbench.page.experiments import EXPERIMENTS, Experiment
from fgbench.report.figures import NOTHING, bound_words, interval, missing, number, size, target_words

LEGEND = (
    "Intervals are 95 %, and speak of the run that they were measured in: runs of the same job hours apart "
    "differ by more. Each table's folder holds its CSVs and charts."
)
FLOORS = (
    "Its floor: the least time that the machine needs for the method's step over that for backprop's. Of "
    "floor: the least time over the time measured. A method that is nearer to its floor than backprop has a "
    "ratio below it. Steps ratio predicted: by SGD at its best rate, were the loss equally curved in all "
    "directions; where it is curved in few, or rates are lower than the best, fewer steps are enough."
)
TIMES = (
    "T: expected training seconds to the target. The target is the lowest loss that every method reached "
    "with some seed, failing that the lowest that several did; a run's other targets are in its targets.csv. "
    f"{bound_words('the reference')}."
)
ONE_PROCESS = "Intervals are over the rounds of one process, and so too narrow."
NEVER = "never"  # T of runs that all diverged
WORTH = (
    *("method", "depth", "ratio", "its floor", "of floor", "cosine", "variance ×"),
    *("steps ratio predicted", "steps ratio"),
)


def markdown(found: Found) -> str:
    """The whole page, with a newline at its end."""
    sections = [
        *((e.heading, list(_experiment(found, e))) for e in EXPERIMENTS),
        ("Step time over the reference's, by depth", list(_by_depth(found, "ratio"))),
        ("Peak memory, by depth", list(_by_depth(found, "peak_bytes"))),
        (
            "What a step costs at the least, and what it is worth",
            [[FLOORS], *of_steps] if (of_steps := list(_worth(found))) else [],
        ),
        ("Time to target", [[TIMES], *of_targets] if (of_targets := list(_targets(found))) else []),
        ("The papers' claims", list(_claims(found))),
    ]
    lines = ["# What was measured", "", LEGEND]
    for heading, blocks in sections:
        if blocks:
            lines += ["", f"## {heading}", *(line for block in blocks for line in ("", *block))]
    return "\n".join(lines) + "\n"


def _experiment(found: Found, experiment: Experiment) -> Iterator[list[str]]:
    for folder, rows in experiment.tables(found.source):
        yield [f"In {_link(found, folder)}:", "", *_table(experiment.heads, rows)]


def _by_depth(found: Found, name: str) -> Iterator[list[str]]:
    """A table of methods by depth, for every comparison of several depths that has the figure."""
    for comparison in found.comparisons:
        rows = comparison.rows.dropna(subset=[name])
        if rows["depth"].nunique() < 2:
            continue
        cells = []
        for method in comparison.methods:
            own = rows[rows["method"] == method].set_index("depth")
            figures = [_depth_cell(own, depth, name) for depth in comparison.depths]
            cells.append((f"`{method}`", *figures))
        heads = ("method", *(f"depth {depth}" for depth in comparison.depths))
        alone = [ONE_PROCESS, ""] if name == "ratio" and rows["processes"].max() == 1 else []
        yield [_title(found, comparison), "", *alone, *_table(heads, cells)]


def _depth_cell(own: pd.DataFrame, depth: int, name: str) -> str:
    if depth not in own.index:
        return NOTHING
    row = own.loc[[depth]].iloc[0]
    return size(row[name]) if name == "peak_bytes" else _figure(row, name)


def _worth(found: Found) -> Iterator[list[str]]:
    """A table of floors and of the quality of estimates, for every comparison that has either."""
    for comparison in found.comparisons:
        rows = comparison.rows[comparison.rows[["floor_share", "cosine"]].notna().any(axis=1)]
        if rows.empty:
            continue
        cells = [
            (
                f"`{row['method']}`",
                row["depth"],
                *(number(row[name]) for name in ("ratio", "floor_ratio")),
                NOTHING if missing(row["floor_share"]) else f"{row['floor_share']:.0%}",
                *(number(row[name]) for name in ("cosine", "second_moment")),
                *(_figure(row, name) for name in ("n_predicted", "n_ratio")),
            )
            for _, row in rows.iterrows()
        ]
        yield [_title(found, comparison), "", *_table(WORTH, cells)]


def _targets(found: Found) -> Iterator[list[str]]:
    for comparison in found.comparisons:
        rows = comparison.rows[comparison.rows["runs"].notna()]
        if rows.empty:
            continue
        cells = [
            (
                f"`{row['method']}`",
                row["depth"],
                _target(row),
                f"{int(row['reached'])} of {int(row['runs'])}",
                NEVER if missing(row["t_low"]) and not row["reached"] else f"{_figure(row, 't')} s",
                _figure(row, "t_ratio"),
            )
            for _, row in rows.iterrows()
        ]
        heads = ("method", "depth", "target", "reached", "T", "T ratio")
        yield [_title(found, comparison), "", *_table(heads, cells)]


def _target(row: pd.Series) -> str:
    words, chance = target_words(row) or NOTHING, row["chance_loss"]
    if missing(row["target_loss"]) or missing(chance) or row["target_loss"] < chance:
        return words
    return f"{words}, no better than chance"


def _claims(found: Found) -> Iterator[list[str]]:
    heads = ("experiment", "claim", "expected", "measured here", "verdict")
    for paper in found.papers:
        cells = [
            (
                c.experiment,
                c.text,
                c.expected,
                c.measured,
                f"**{c.verdict}**" + (f": {c.why}" if c.why else ""),
            )
            for c in paper.claims
        ]
        yield [
            f"{paper.source}, scale {paper.scale}, in {_link(found, paper.folder)}: {paper.counts}.",
            "",
            *_table(heads, cells),
        ]


def _figure(row: pd.Series, name: str) -> str:
    cells = row[name], row[f"{name}_low"], row[f"{name}_high"]
    return " ".join(filter(None, (number(*cells), interval(*cells))))


def _title(found: Found, comparison: Comparison) -> str:
    places = ", ".join(_link(found, run.path) for run in found.runs_of(comparison))
    return f"{_escaped(comparison.sentence)}, in {places}:"


def _link(found: Found, folder: Path) -> str:
    path = folder.relative_to(found.source)
    return f"[{_escaped(found.name_of(folder))}]({path.as_posix().replace(' ', '%20')})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [f"| {' | '.join(_escaped(str(cell)) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines]


def _escaped(text: str) -> str:
    """Text in which a name can neither begin a cell nor a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")
