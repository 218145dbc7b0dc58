"""What was found in plain words, and every warning with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from fgbench.report.figures import interval, missing, number

AA_TOLERANCE = 0.05  # an A/A ratio further off than this makes any other of the group doubtful
FEW_SEEDS = 3


def findings(group: pd.DataFrame, aa: pd.DataFrame) -> list[str]:
    """A sentence for each method of a matched group that is not the reference.

    Args:
        group: the group's rows of the summary.
        aa: rows of ratios.csv of the A/A repeat: a reference that differs from itself takes any
            verdict back.
    """
    first = group.iloc[0]
    where = f"{first['arch']} of depth {first['depth']} on {first['device_name']}"
    others = group[group["method"] != first["reference"]]
    steady = _off_by(aa[aa["group"] == first["group"]]) <= AA_TOLERANCE
    sentences = []
    for _, row in others.iterrows():
        parts = [*_speed(row, steady), *_target(row)]
        if parts:
            sentences.append(f"{where}: {'; '.join(parts)}.")
    return sentences


def warnings(summary: pd.DataFrame, aa: pd.DataFrame) -> list[str]:
    """What a reader should doubt, with the figure and what would help."""
    return [*_aa_doubts(aa), *_precision_doubts(summary), *_seed_doubts(summary), *_status_doubts(summary)]


def _speed(row: pd.Series, steady: bool) -> Iterator[str]:
    if missing(row["ratio"]):
        return
    cells = row["ratio"], row["ratio_low"], row["ratio_high"]
    figure = f"a {row['method']} step takes {number(*cells)} times as long as a {row['reference']} step"
    if missing(row["ratio_low"]):
        yield f"{figure}, from too few rounds to say how sure that is"
    else:
        basis = f"{int(row['processes'])} processes" if row["processes"] > 1 else "one process"
        yield f"{figure} (95 % interval {_range(*cells)}, {basis}): {_verdict(row, steady)}"


def _range(value: float, low: float, high: float) -> str:
    return interval(value, low, high)[1:-1].replace(",", " to")


def _verdict(row: pd.Series, steady: bool) -> str:
    if not steady:
        return f"no verdict, {row['reference']} differs from itself"
    if row["ratio_high"] < 1:
        return "faster"
    return "slower" if row["ratio_low"] > 1 else "no difference that this run can tell"


def _target(row: pd.Series) -> Iterator[str]:
    if missing(row["runs"]):
        return
    loss, reached, runs = f"{row['target_loss']:g}", int(row["reached"]), int(row["runs"])
    if not reached:
        yield f"{row['method']} reached validation loss {loss} in none of {runs} run{'s' if runs > 1 else ''}"
        return
    if missing(row["t_ratio"]):
        yield f"{row['method']} reached loss {loss} in {reached} of {runs} runs, {row['reference']} in none"
        return
    cells = row["t_ratio"], row["t_ratio_low"], row["t_ratio_high"]
    sure = _range(*cells)
    clause = f"to validation loss {loss} {row['method']} takes {number(*cells)} times the training time"
    clause += f" (95 % interval {sure}, {runs} seeds)" if sure else f" ({runs} seed{'s' if runs > 1 else ''})"
    yield clause + (f", reaching it in {reached} of {runs} runs" if reached < runs else "")


def _off_by(aa: pd.DataFrame) -> float:
    """How far the A/A ratio is from 1; 0 where there is none."""
    ratios = aa["ratio"].dropna()
    return float(abs(ratios - 1).max()) if len(ratios) else 0.0


def _aa_doubts(aa: pd.DataFrame) -> Iterator[str]:
    for _, row in aa.iterrows():
        if _off_by(row.to_frame().T) > AA_TOLERANCE:
            yield (
                f"{row['group']}: {row['reference']} against itself came out at {row['ratio']:.3f}, not 1: "
                "this machine is too noisy now; close other programs or raise --processes."
            )


def _precision_doubts(summary: pd.DataFrame) -> Iterator[str]:
    for _, row in summary.iterrows():
        if row["stopped"] == "time" and not missing(row["ratio_low"]) and row["method"] != row["reference"]:
            half = (row["ratio_high"] - row["ratio_low"]) / 2 / row["ratio"]
            yield (
                f"{row['group']}, {row['method']}: time ran out at ±{half:.1%} of the ratio; "
                "raise --max-measure-seconds for the precision asked for."
            )


def _seed_doubts(summary: pd.DataFrame) -> Iterator[str]:
    runs = summary["runs"].dropna()
    if len(runs) and runs.max() < FEW_SEEDS:
        yield (
            f"{int(runs.max())} seed{'s are' if runs.max() > 1 else ' is'} few for a time to target; "
            f"--seeds {FEW_SEEDS} or more narrows its interval."
        )


def _status_doubts(summary: pd.DataFrame) -> Iterator[str]:
    for _, row in summary[summary["status"] != "ok"].iterrows():
        yield f"{row['group']}, {row['method']}: {row['status']} (jobs.csv has the details)."
