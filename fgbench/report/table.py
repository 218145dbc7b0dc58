"""The table in the terminal: a row for each method, with intervals below the figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fgbench.plan.config import KNOWN_AS
from fgbench.report.figures import (
    NOTHING,
    bound_words,
    device_words,
    folded,
    folded_width,
    interval,
    joules,
    missing,
    model_words,
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
Columns = dict[str, Callable[[pd.Series], str]]
FEW_TARGETS = 2  # a table without details shows all targets if there are no more than these
WORTH = (
    "cosine, variance ×: of a step's estimate g with its batch's gradient ∇f, and ‖g‖²/‖∇f‖²; means along "
    "the reference's training\nsteps ratio predicted: by SGD at its best rate, were the loss equally curved "
    "in all directions"
)
DETAILS = ("by rounds\nalone", "of\nfloor", "first\ncall", "\nlr")  # what --verbose shows


class Part(Enum):
    """A part of the table, whose columns stay together."""

    TIME = "time and memory"
    TRAINING = "training"
    WORTH = "what a step is worth"


def group_tables(
    group: pd.DataFrame, console: Console, curves: Mapping[str, str] | None = None, *, detail: bool = True
) -> list[Table]:
    """A matched group's rows of the summary: one table, or several where the terminal is too narrow.

    Args:
        group: the rows.
        console: that they are for.
        curves: every method's loss curve as a line of text.
        detail: whether all columns are shown. Without, times to targets are left to `targets_table`.
    """
    group = group.assign(curve=group["method"].map(curves or {}))
    measured = [Part.TIME] if group["r"].notna().any() else []
    measured += [Part.TRAINING] if group["learning_rate"].notna().any() else []
    measured += [Part.WORTH] if group["cosine"].notna().any() else []
    together: list[list[Part]] = []
    for part in measured:
        if together and _width_of(_table(group, [*together[-1], part], detail), console) <= console.width:
            together[-1].append(part)
        else:
            together.append([part])
    return [_table(group, parts, detail) for parts in together]


def _width_of(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(width=1000)).maximum


def _table(group: pd.DataFrame, parts: Sequence[Part], detail: bool) -> Table:
    shown = _shown(group)
    columns = {k: v for part in parts for k, v in COLUMNS[part](shown).items() if detail or k not in DETAILS}
    if not detail:
        columns = {k: v for k, v in columns.items() if v not in (_time, _t_ratio, _n_ratio)}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", style="bold", overflow="fold", min_width=folded_width(group["method"]))
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for _, row in group.iterrows():
        name = _two_lines(folded(row["method"]), KNOWN_AS.get(row["method"], ""))
        table.add_row(name, *(figure(row) for figure in columns.values()))
    return table


def _shown(group: pd.DataFrame) -> pd.Series:
    """The group's first row; a figure that it lacks is taken from the first row that has it."""
    filled = group.bfill().iloc[0].copy()
    filled["modes_differ"] = group["mode"].nunique() > 1
    filled["optimizers_differ"] = OR in str(filled["optimizer"])
    return filled


def _time_columns(shown: pd.Series) -> Columns:
    """Headings and cells for what was timed."""
    columns: Columns = {
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


def _training_columns(shown: pd.Series) -> Columns:
    """Headings and cells for what was trained."""
    columns: Columns = {
        "\noptimizer": folded_optimizer,
        "\nlr": lambda row: NOTHING if missing(row["learning_rate"]) else f"{row['learning_rate']:.3g}",
        _target_title(shown): _time,
        "T\nratio": _t_ratio,
        "steps\nratio": _n_ratio,
        "validation\nloss": _loss,
        "bits\na byte": lambda row: _figure(row, "bits_per_byte"),
        f"loss over\n{seconds(shown['train_seconds'])}": lambda row: (
            NOTHING if missing(row["curve"]) else str(row["curve"])
        ),
    }
    if not shown["optimizers_differ"]:
        del columns["\noptimizer"]
    if missing(shown["curve"]):
        columns.popitem()
    if missing(shown.get("bits_per_byte")):
        del columns["bits\na byte"]
    return columns


def _worth_columns(_shown: pd.Series) -> Columns:
    """Headings and cells for the quality of estimates."""
    return {
        "\ncosine": lambda row: number(row["cosine"]),
        "variance\n×": lambda row: number(row["second_moment"]),
        "steps ratio\npredicted": lambda row: _figure(row, "n_predicted"),
    }


COLUMNS = {Part.TIME: _time_columns, Part.TRAINING: _training_columns, Part.WORTH: _worth_columns}


def _r(row: pd.Series) -> str:
    return _figure(row, "r") + BOUND.get(row["bound_by"], "")


def _within(row: pd.Series) -> str:
    return escape(interval(row["ratio"], row["ratio_within_low"], row["ratio_within_high"]))


def _t_ratio(row: pd.Series) -> str:
    return _figure(row, "t_ratio")


def _n_ratio(row: pd.Series) -> str:
    return _figure(row, "n_ratio")


def folded_optimizer(row: pd.Series) -> str:
    """A method's own optimiser, with its options on lines of their own."""
    if missing(row["own_optimizer"]):
        return NOTHING
    return str(row["own_optimizer"]).replace(":", "\n").replace(",", "\n")


def parts_table(parts: pd.DataFrame, group: pd.DataFrame) -> list[Table]:
    """A table of R split into the parts of a step, by method; empty where parts were not timed."""
    own = parts[parts["group"] == group["group"].iloc[0]]
    if own.empty:
        return []
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("R split", style="bold", overflow="fold", min_width=folded_width(own["method"]))
    present = [name for name in ORDER if name in set(own["part"])]
    for name in (*present, "sum off by"):
        table.add_column(name.replace(" and ", "\nand "), justify="right")
    for method, rows in own.groupby("method", sort=False):
        r = rows.set_index("part")["r"]
        table.add_row(
            folded(method), *(number(r.get(name)) for name in present), f"{rows['off'].iloc[0]:+.1%}"
        )
    return [table]


def title(row: pd.Series) -> str:
    """A title that says what was compared, and on which machine."""
    model = f"{row['arch']}, depth {row['depth']}, width {row['width']}, batch {row['batch']}"
    model = ", ".join(filter(None, (model, model_words(row))))
    return (
        f"{model} · {row['dataset']} · {row['dtype']}, {row['execution']}, {row['optimizer']} · "
        f"{row['device']} ({device_words(row)})"
    )


def caption(row: pd.Series) -> str:
    """A caption that explains the figures of the detailed tables, and how sure they are."""
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
        lines.append(
            f"{row['method']} updates {row['update']}, the fastest of its updates here, in all figures"
        )
    if not missing(row["runs"]):
        lines.append("T: expected training seconds to the target; T ratio ≈ ratio × steps ratio")
        lines.append(bound_words(row["reference"]))
    if not missing(row["train_seconds"]):
        lines.append(f"{row['protocol']}; {row['optimizer']}; {_evaluation(row)}")
    return "\n".join(lines)


def legend(row: pd.Series, targets: pd.DataFrame) -> str:
    """A legend that explains the figures of the tables without details.

    Args:
        row: of any method of the group.
        targets: a row for each target and method of the group; what was reached decides what is explained.
    """
    lines = []
    missed = targets["reached"] == 0
    if not missing(row["processes"]):
        count = int(row["processes"])
        lines.append(
            "R: time of a step over a plain evaluation of the loss; in brackets 95 % intervals over "
            + (f"{count} processes" if count > 1 else "the rounds of ONE process, so too narrow")
        )
    if not missing(row["runs"]):
        count = int(row["runs"])
        lines.append(
            f"T: expected training seconds until the target is reached and held, over {count} "
            f"seed{'s' * (count > 1)}{f'; 0 of {count}: none of them got there' * bool(missed.any())}"
        )
        if targets["t_ratio_low"][missed].notna().any():
            lines.append(bound_words(row["reference"]))
    return "\n".join(lines)


def _evaluation(row: pd.Series) -> str:
    cost = (
        f"evaluation took {row['evaluation_share']:.0%} of {row['method']}'s training time, in addition to it"
    )
    if missing(row["t_resolution"]):
        return cost
    return f"{cost}, and its T is known to {seconds(row['t_resolution'])}"


def targets_table(
    targets: pd.DataFrame, group: pd.DataFrame, console: Console, *, detail: bool = True
) -> list[Table]:
    """A table of a group's times to its targets; empty where the main table has them.

    With detail these are all targets, and one alone is in the main table; without, the headline alone where
    there are more than two. Intervals stand below the figures where the terminal is too narrow for a line.
    """
    count = len(targets[TARGET].drop_duplicates())
    if not count or (detail and count == 1):
        return []
    if not detail and count > FEW_TARGETS:
        headline = group[TARGET].iloc[0]
        targets = targets[[target_words(row) == target_words(headline) for _, row in targets.iterrows()]]
    wide = _targets_table(targets, detail, " ")
    return [wide if _width_of(wide, console) <= console.width else _targets_table(targets, detail, "\n")]


def _targets_table(targets: pd.DataFrame, detail: bool, between: str) -> Table:
    """The table, with `between` a figure and its interval."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("to", overflow="fold")
    table.add_column("method", style="bold", overflow="fold", min_width=folded_width(targets["method"]))
    for name in ("T", "median", "T ratio", "steps ratio") if detail else ("T", "T ratio", "steps ratio"):
        table.add_column(name.replace(" ", between), justify="right", no_wrap=True)
    for _, rows in targets.groupby(TARGET, sort=False, dropna=False):
        for place, (_, row) in enumerate(rows.iterrows()):
            median = "∞" if math.isinf(row["t_median"]) else seconds(row["t_median"])
            name = "" if place else target_words(row).removeprefix("validation ")
            steps = number(row["n_ratio"], row["n_ratio_low"])  # a bound where none reached it
            cells = (_time(row), *([median] if detail else ()), _t_ratio(row), steps)
            table.add_row(name, folded(row["method"]), *(cell.replace("\n", between) for cell in cells))
        table.add_section()
    return table


def _target_title(row: pd.Series) -> str:
    return f"T to\n{target_words(row).removeprefix('validation ')}" if target_words(row) else "\nT"


def _figure(row: pd.Series, name: str) -> str:
    cells = row[name], row[f"{name}_low"], row[f"{name}_high"]
    return _two_lines(number(*cells), interval(*cells))


def _time(row: pd.Series) -> str:
    if missing(row["runs"]):
        return NOTHING
    reach = f"{int(row['reached'])} of {int(row['runs'])}"
    cells = row["t"], row["t_low"], row["t_high"]
    if not row["reached"] and missing(row["t_low"]):
        return _two_lines("never", reach)
    return _two_lines(f"{number(*cells)} s", interval(*cells) if row["reached"] == row["runs"] else reach)


def _loss(row: pd.Series) -> str:
    if missing(row["validation_loss"]):
        return _two_lines(NOTHING, str(row["status"]) if "diverged" in str(row["status"]) else "")
    return _figure(row, "validation_loss")


def _two_lines(first: str, second: Any) -> str:
    return f"{first}\n[dim]{str(second).replace('[', chr(92) + '[')}[/dim]" if second else first
