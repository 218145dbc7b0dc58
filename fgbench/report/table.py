"""The table in the terminal: a row a method, intervals below the figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fgbench.report.figures import (
    NOTHING,
    interval,
    joules,
    missing,
    number,
    seconds,
    size,
    target_words,
)
from fgbench.specs.options import OR
from fgbench.summary.parts import ORDER
from fgbench.summary.table import HOST, UNKNOWN
from fgbench.summary.targets import TARGET

BOUND = {HOST: "\n[yellow]launch-bound[/yellow]", UNKNOWN: "\n[yellow]launch-bound?[/yellow]"}
WORTH = (
    "cosine, variance ×: of a step's estimate g with its batch's gradient ∇f, and ‖g‖²/‖∇f‖²; means along "
    "the reference's training\nsteps ratio predicted: by SGD at its best rate, were the loss equally curved "
    "in all directions"
)
METHOD_WIDTH = 28  # of the column, before a long spec is folded


class Part(Enum):
    """A half of the table."""

    TIME = "time and memory"
    TRAINING = "training"
    WORTH = "what a step is worth"


def group_tables(group: pd.DataFrame, console: Console) -> list[Table]:
    """A matched group's rows of the summary: one table, or two where the terminal is too narrow."""
    measured = [Part.TIME] if group["r"].notna().any() else []
    measured += [Part.TRAINING] if group["learning_rate"].notna().any() else []
    measured += [Part.WORTH] if group["cosine"].notna().any() else []
    whole = _table(group, measured)
    if console.measure(whole, options=console.options.update(width=1000)).maximum <= console.width:
        return [whole]
    return [_table(group, [part]) for part in measured]


def _table(group: pd.DataFrame, parts: Sequence[Part]) -> Table:
    shown = _shown(group)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    longest = max(len(method) for method in group["method"])
    table.add_column("method", style="bold", overflow="fold", min_width=min(longest, METHOD_WIDTH))
    for part in parts:
        for name in _headings(part, shown):
            table.add_column(name, justify="right", no_wrap=True)
    for _, row in group.iterrows():
        table.add_row(row["method"], *(cell for part in parts for cell in _figures(part, row, shown)))
    return table


def _shown(group: pd.DataFrame) -> pd.Series:
    """The group's first row, with the first figure of each column where that row has none."""
    filled = group.bfill().iloc[0].copy()
    filled["modes_differ"] = group["mode"].nunique() > 1
    filled["optimizers_differ"] = OR in str(filled["optimizer"])
    return filled


def _headings(part: Part, first: pd.Series) -> tuple[str, ...]:
    if part is Part.TIME:
        return tuple(_time_columns(first))
    if part is Part.WORTH:
        return tuple(_worth_columns())
    own = ("\noptimizer",) if first["optimizers_differ"] else ()
    return *own, "\nlr", _target_title(first), "T\nratio", "steps\nratio", "validation\nloss"


def _time_columns(shown: pd.Series) -> dict[str, Callable[[pd.Series], str]]:
    """Headings and cells, of what was measured of the group."""
    columns: dict[str, Callable[[pd.Series], str]] = {
        "\nR": _r,
        "R\nalone": lambda row: _figure(row, "r_alone"),
        f"ratio to\n{shown['reference']}": lambda row: _figure(row, "ratio"),
        "by rounds\nalone": _within,
        "of\nfloor": lambda row: NOTHING if missing(row["floor_share"]) else f"{row['floor_share']:.0%}",
        "\nmode": lambda row: NOTHING if missing(row["mode"]) else str(row["mode"]),
        "first\ncall": lambda row: seconds(row["first_call_seconds"]),
        "energy\na step": lambda row: joules(row["joules"]),
        "peak\nmemory": lambda row: size(row["peak_bytes"]),
    }
    absent = {
        "R\nalone": missing(shown["r_alone"]),
        "by rounds\nalone": missing(shown["processes"]) or shown["processes"] < 2,
        "of\nfloor": missing(shown["floor_share"]),
        "\nmode": not shown["modes_differ"],
        "first\ncall": not shown["modes_differ"] and shown["execution"] == "eager",
        "energy\na step": missing(shown["joules"]),
    }
    return {heading: figure for heading, figure in columns.items() if not absent.get(heading)}


def _worth_columns() -> dict[str, Callable[[pd.Series], str]]:
    """Headings and cells of what estimates are worth."""
    return {
        "\ncosine": lambda row: number(row["cosine"]),
        "variance\n×": lambda row: number(row["second_moment"]),
        "steps ratio\npredicted": lambda row: _figure(row, "n_predicted"),
    }


def _r(row: pd.Series) -> str:
    return _figure(row, "r") + BOUND.get(row["bound_by"], "")


def _within(row: pd.Series) -> str:
    return escape(interval(row["ratio"], row["ratio_within_low"], row["ratio_within_high"]))


def _figures(part: Part, row: pd.Series, shown: pd.Series) -> tuple[str, ...]:
    if part is Part.TIME:
        return tuple(figure(row) for figure in _time_columns(shown).values())
    if part is Part.WORTH:
        return tuple(figure(row) for figure in _worth_columns().values())
    rate = NOTHING if missing(row["learning_rate"]) else f"{row['learning_rate']:.3g}"
    own = (folded_optimizer(row),) if shown["optimizers_differ"] else ()
    return *own, rate, _time(row), _figure(row, "t_ratio"), _figure(row, "n_ratio"), _loss(row)


def folded_optimizer(row: pd.Series) -> str:
    """A method's own optimiser, its options on lines of their own."""
    if missing(row["own_optimizer"]):
        return NOTHING
    return str(row["own_optimizer"]).replace(":", "\n").replace(",", "\n")


def parts_table(parts: pd.DataFrame, group: pd.DataFrame) -> list[Table]:
    """R of a group's methods split into the parts of a step; none where they were not timed."""
    own = parts[parts["group"] == group["group"].iloc[0]]
    if own.empty:
        return []
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    longest = max(len(method) for method in own["method"])
    table.add_column("R split", style="bold", overflow="fold", min_width=min(longest, METHOD_WIDTH))
    present = [name for name in ORDER if name in set(own["part"])]
    for name in (*present, "sum off by"):
        table.add_column(name.replace(" and ", "\nand "), justify="right")
    for method, rows in own.groupby("method", sort=False):
        r = rows.set_index("part")["r"]
        table.add_row(method, *(number(r.get(name)) for name in present), f"{rows['off'].iloc[0]:+.1%}")
    return [table]


def title(row: pd.Series) -> str:
    """What was compared, on what."""
    count = row["threads"]
    threads = f", {count} thread{'s' if count > 1 else ''}" if row["device"] == "cpu" else ""
    return (
        f"{row['arch']}, depth {row['depth']}, width {row['width']}, batch {row['batch']} · "
        f"{row['dataset']} · {row['dtype']}, {row['execution']}, {row['optimizer']} · "
        f"{row['device']} ({row['device_name']}{threads})"
    )


def caption(row: pd.Series) -> str:
    """What the table's figures are, and how sure they are."""
    lines = []
    if not missing(row["processes"]):
        count, rounds = int(row["processes"]), int(row["rounds"])
        base = NOTHING if missing(row["r"]) else seconds(row["seconds"] / row["r"])
        lines.append(f"R: time of a step over one plain evaluation of the loss ({base})")
        lines.append(
            f"95 % intervals over {count} processes, {rounds} rounds in all"
            if count > 1
            else f"ONE process, {rounds} rounds: the intervals leave out the spread between processes"
        )
    if not missing(row["floor_share"]):
        lines.append("of floor: the share of a step that this machine needs at least, by its FLOPs and bytes")
    if not missing(row["cosine"]):
        lines.append(WORTH)
    if not missing(row.get("update")):
        lines.append(f"{row['method']} updates {row['update']}: the fastest of its ways here, in all figures")
    if not missing(row["runs"]):
        lines.append("T: expected training seconds to the target; T ratio ≈ ratio × steps ratio")
    if not missing(row["train_seconds"]):
        lines.append(f"{row['protocol']}; {row['optimizer']}; {_evaluation(row)}")
    return "\n".join(lines)


def _evaluation(row: pd.Series) -> str:
    cost = f"evaluation took {row['evaluation_share']:.0%} of {row['method']}'s training on top of it"
    if missing(row["t_resolution"]):
        return cost
    return f"{cost}, and its T is known to {seconds(row['t_resolution'])}"


def targets_table(targets: pd.DataFrame) -> list[Table]:
    """Times of a group to each of its targets; none where there is one alone, which the main table has."""
    if targets.empty or len(targets[TARGET].drop_duplicates()) < 2:
        return []
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    longest = max(len(method) for method in targets["method"])
    table.add_column("to", overflow="fold")
    table.add_column("method", style="bold", overflow="fold", min_width=min(longest, METHOD_WIDTH))
    for name in ("T", "median", "T\nratio", "steps\nratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, rows in targets.groupby(TARGET, sort=False, dropna=False):
        for place, (_, row) in enumerate(rows.iterrows()):
            median = "∞" if math.isinf(row["t_median"]) else seconds(row["t_median"])
            ratios = (number(row[n], row[f"{n}_low"], row[f"{n}_high"]) for n in ("t_ratio", "n_ratio"))
            name = "" if place else target_words(row).removeprefix("validation ")
            table.add_row(name, row["method"], _time(row), median, *ratios)
        table.add_section()
    return [table]


def _target_title(row: pd.Series) -> str:
    return f"T to\n{target_words(row).removeprefix('validation ')}" if target_words(row) else "\nT"


def _figure(row: pd.Series, name: str) -> str:
    cells = row[name], row[f"{name}_low"], row[f"{name}_high"]
    return _two_lines(number(*cells), interval(*cells))


def _time(row: pd.Series) -> str:
    if missing(row["runs"]):
        return NOTHING
    reach = f"{int(row['reached'])} of {int(row['runs'])} reached"
    if not row["reached"]:
        return _two_lines("not reached", reach)
    cells = row["t"], row["t_low"], row["t_high"]
    return _two_lines(f"{number(*cells)} s", interval(*cells) if row["reached"] == row["runs"] else reach)


def _loss(row: pd.Series) -> str:
    if missing(row["validation_loss"]):
        return _two_lines(NOTHING, str(row["status"]) if "diverged" in str(row["status"]) else "")
    return _figure(row, "validation_loss")


def _two_lines(first: str, second: Any) -> str:
    return f"{first}\n[dim]{str(second).replace('[', chr(92) + '[')}[/dim]" if second else first
