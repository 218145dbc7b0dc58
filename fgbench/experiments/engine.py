"""`make bench-engine`: measure what the forward-mode engine costs and compare it with its targets.

Every case is a run of its own in the results folder, so that its samples can be looked at. The table is
stored beside them as `engine.csv`. `backprop` uses its fastest update in the same execution mode.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fgbench.api import load
from fgbench.report.figures import number

BACKPROP = "backprop"
TABLE = "engine.csv"


@dataclass(frozen=True)
class Goal:
    """The target of a method: the largest R (per tangent) and the largest ratio to backprop allowed."""

    method: str
    r: float | None = None
    ratio: float | None = None
    per_tangent: int = 1


@dataclass(frozen=True)
class Case:
    """One matched group and the targets of its methods."""

    arch: str
    depth: int
    batch: int
    goals: Sequence[Goal]
    execution: str = "eager"
    seconds: float = 60.0

    @property
    def name(self) -> str:
        """A short description, which the table shows."""
        compiled = ", compiled" if self.execution != "eager" else ""
        return f"{self.arch} depth {self.depth}, batch {self.batch}{compiled}"


RANK_ONE, SIXTEEN = "forward:structure=rank-one", "forward:tangents=16,structure=rank-one"
WIDTHS = {"mlp": 1024, "cnn": 64}  # the widths that the targets are for
FOUR = "forward:tangents=4,structure=rank-one"
CASES = (
    Case(
        "mlp",
        8,
        64,
        (
            Goal(RANK_ONE, 2.2, 0.62),
            Goal("forward:structure=rademacher", 4.5),
            Goal(SIXTEEN, 1.0, per_tangent=16),
        ),
    ),
    Case("mlp", 8, 64, (Goal(RANK_ONE, 1.85, 0.55),), execution="compile"),
    Case("mlp", 8, 8, (Goal(RANK_ONE, 2.2, 0.65),), seconds=30),
    Case("mlp", 8, 256, (Goal(RANK_ONE, 2.2, 0.65),)),
    Case("mlp", 100, 64, (Goal(RANK_ONE, 2.2, 0.62),), seconds=120),
    Case("cnn", 4, 64, (Goal(RANK_ONE, 2.0, 0.80),), seconds=90),
    Case("mlp", 2, 64, (Goal(FOUR, ratio=2.0), Goal("forward", ratio=1.9)), seconds=30),
)


def main() -> None:
    """Run the cases, store the table and print it beside the targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/engine"))
    parser.add_argument("--share", type=float, default=1.0, help="share of each case's seconds to use")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    rows = []
    for case in CASES:
        path = _measure(case, asked)
        rows += _rows(case, load(path))
    frame = pd.DataFrame(rows)
    frame.to_csv(asked.out / TABLE, index=False, quoting=csv.QUOTE_MINIMAL)
    show(frame)


def _measure(case: Case, asked: argparse.Namespace) -> Path:
    """Measure the case by one `fgbench run`; gives the run's folder."""
    from fgbench.cli import app

    before = set(asked.out.glob("*/run.json"))
    specs = [BACKPROP, *(goal.method for goal in case.goals)]
    seconds = case.seconds * asked.share
    arguments = [
        *("run", "--time-only", "--arch", case.arch, "--depth", str(case.depth)),
        *("--width", str(WIDTHS[case.arch])),
        *("--batch", str(case.batch), "--threads", str(asked.threads), "--execution", case.execution),
        *("--dataset", "synthetic:shape=1x28x28,classes=10,samples=4096", "--out", str(asked.out)),
        *("--processes", str(asked.processes), "--max-measure-seconds", f"{seconds:g}"),
        *(part for spec in specs for part in ("--method", spec)),
    ]
    sys.argv = ["fgbench", *arguments]  # the run stores this as its command
    app(arguments, standalone_mode=False)
    (new,) = set(asked.out.glob("*/run.json")) - before
    return new.parent


def _rows(case: Case, summary: pd.DataFrame) -> list[dict[str, Any]]:
    by_method = summary.set_index("method")
    over = by_method.loc[BACKPROP]
    rows = []
    for goal in case.goals:
        own = by_method.loc[goal.method]
        rows.append(
            {
                "case": case.name,
                "method": goal.method,
                "r": own["r"] / goal.per_tangent,
                "r_target": goal.r,
                "per_tangents": goal.per_tangent,
                "ratio": own["ratio"],
                "ratio_target": goal.ratio,
                "over": over["update"],
                "r_over": over["r"],
                "status": own["status"],
            }
        )
    return rows


def show(frame: pd.DataFrame) -> None:
    """Print the table in the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="The engine against its targets", title_justify="left", box=None, pad_edge=False)
    for name in ("case", "method"):
        table.add_column(name, overflow="fold", min_width=24)
    for name in ("R", "target", "ratio", "target", "over"):
        table.add_column(name, justify="right")
    for row in frame.to_dict("records"):
        per = " a tangent" if row["per_tangents"] > 1 else ""
        table.add_row(
            row["case"],
            row["method"],
            number(row["r"]) + per,
            _goal(row["r"], row["r_target"]),
            number(row["ratio"]),
            _goal(row["ratio"], row["ratio_target"]),
            str(row["over"]),
        )
    Console().print(table)


def _goal(found: float, asked: float | None) -> str:
    if asked is None or pd.isna(asked):
        return ""
    return f"[green]≤ {asked:g}[/green]" if found <= asked else f"[red]≤ {asked:g}[/red]"


if __name__ == "__main__":
    main()
