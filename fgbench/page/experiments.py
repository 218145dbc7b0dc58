"""Tables of the experiments on fgbench itself: what it tells apart, what the engine costs, what is predicted.

Each experiment of `fgbench/experiments/` stores one CSV; what is shown of it is listed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fgbench.errors import ResultsError
from fgbench.regression.checking import Answer
from fgbench.report.figures import NOTHING, interval, missing, number

Row = dict[Any, Any]
ANSWERS = tuple(answer.value for answer in Answer if answer is not Answer.NEW)
KINDS = {"aa": "identical steps", "known": "steps with a known difference"}


def _all(table: pd.DataFrame) -> Iterable[Row]:
    return table.to_dict("records")


@dataclass(frozen=True)
class Experiment:
    """What the results page shows of an experiment's CSV; a row without cells is left out.

    `rows` are the rows that are shown: the table's, or a row for many of them.
    """

    file: str
    heading: str
    heads: Sequence[str]
    cells: Callable[[Row], Sequence[Any]]
    rows: Callable[[pd.DataFrame], Iterable[Row]] = _all

    def tables(self, source: Path) -> Iterator[tuple[Path, list[Sequence[Any]]]]:
        """Each folder at or below `source` that holds the CSV, and the table's rows.

        Raises:
            ResultsError: the file is not a table of this experiment.
        """
        for path in sorted(source.rglob(self.file)):
            try:
                rows = [cells for row in self.rows(pd.read_csv(path)) if (cells := self.cells(row))]
            except (OSError, ValueError, KeyError) as error:
                raise ResultsError(f"{path}: is not a table of this experiment ({error!r}).") from error
            yield path.parent, rows


def _engine(row: Row) -> Sequence[Any]:
    return row["case"], f"`{row['method']}`", *_beside(row, "r"), *_beside(row, "ratio"), row["over"]


def _beside(row: Row, name: str) -> tuple[str, str]:
    asked = row[f"{name}_target"]
    return number(row[name]), NOTHING if missing(asked) else f"≤ {asked:g}"


def _ratio(row: Row) -> str:
    bounds = row["ratio"], row["ratio_low"], row["ratio_high"]
    return f"{number(*bounds)} {interval(*bounds)}".strip()


def _transformers(row: Row) -> Sequence[Any]:
    _, target = _beside(row, "ratio")
    return row["model"], f"`{row['method']}`", _ratio(row), target, number(row["floor_ratio"]), row["over"]


def _overhead(row: Row) -> Sequence[Any]:
    which = "" if row["which"].startswith(row["over"]) else f" ({row['which']})"
    return row["case"], f"`{row['method']}`", row["execution"], row["over"] + which, _ratio(row)


def _ways(row: Row) -> Sequence[Any]:
    if missing(row["ratio"]):
        return row["model"], row["execution"], row["way"], NOTHING, NOTHING, _text(row["reason"])
    remarks = "; ".join(filter(None, (_text(row["without_rule"]), _text(row["reason"]))))
    ready = NOTHING if missing(row["ready_seconds"]) else f"{row['ready_seconds']:.1f} s"
    return row["model"], row["execution"], row["way"], _ratio(row), ready, remarks


def _text(cell: Any) -> str:
    return "" if missing(cell) else str(cell)


def _layers(row: Row) -> Sequence[Any]:
    return row["case"], f"`{row['method']}`", _ratio(row), number(row["second_moment"]), row["over"]


def _steadying(row: Row) -> Sequence[Any]:
    rates = (number(row[name]) for name in ("largest_rate", "rate_to_0.5"))
    steps, seconds = row["steps_to_0.5"], row["seconds_to_0.5"]
    spent = ("not reached", NOTHING) if math.isinf(steps) else (f"{steps:.0f}", f"{number(seconds)} s")
    return f"`{row['method']}`", row["means"], *rates, *spent


def _readings(row: Row) -> Sequence[Any]:
    fallen = f"diverged at {row['iterations']}" if row["outcome"] == "diverged" else f"{row['iterations']}"
    reading = row["weights"], row["pixels"], row["means"]
    return *reading, f"`{row['method']}`", fallen, number(row["lowest"]), number(row["steps_ratio"])


def _main_job(row: Row) -> Sequence[Any]:
    notes = len([note for note in _text(row["warnings"]).split(" | ") if note])
    return row["job"], f"{row['seconds']:.0f} s", row["processes"], f"±{row['half_width']:.1%}", notes


def _prediction(row: Row) -> Sequence[Any]:
    if row["ratio_predicted"] == row["ratio_measured"] == 1.0:  # what the others are over
        return ()
    figures = (number(row[name]) for name in ("ratio_predicted", "ratio_measured"))
    return row["model"], f"`{row['method']}`", *figures, f"{row['error']:+.0%}"


def _intervals(table: pd.DataFrame) -> Iterable[Row]:
    """A row for each true ratio: how many comparisons there were, and whose interval holds it."""
    for (kind, truth), own in table.groupby(["kind", "truth"], sort=False):
        held = own["low"].le(truth) & own["high"].ge(truth)
        half = (own["high"] / own["low"]).pow(0.5).median() - 1
        yield {"kind": KINDS[str(kind)], "truth": truth, "count": len(own), "held": held.mean(), "half": half}


def _noise(row: Row) -> Sequence[Any]:
    return row["kind"], f"{row['truth']:g}", row["count"], f"{row['held']:.1%}", f"±{row['half']:.2%}"


def _changes(table: pd.DataFrame) -> Iterable[Row]:
    """A row for each known slowdown: how often the check on real runs gave each answer."""
    for slowed, own in table[table["source"] == "run"].groupby("slowed"):
        counts = own["answer"].value_counts()
        yield {"slowed": slowed, "count": len(own), **{name: counts.get(name, 0) for name in ANSWERS}}


def _gate(row: Row) -> Sequence[Any]:
    what = f"slower by {row['slowed']:.0%}" if row["slowed"] else "unchanged"
    return what, row["count"], *(row[name] for name in ANSWERS)


EXPERIMENTS = (
    Experiment(
        "main_job.csv",
        "The default job, time after time: how long it takes, and its least precise ratio's interval",
        ("job", "time", "processes", "interval", "notes"),
        _main_job,
    ),
    Experiment(
        "noise.csv",
        "Noise: how often the 95 % interval of a run holds a ratio that is known",
        ("compared", "true ratio", "comparisons", "hold it", "median interval"),
        _noise,
        _intervals,
    ),
    Experiment(
        "gate.csv",
        "fgbench check on code that is unchanged, and on code that is slower: how often it gave each answer",
        ("code", "checks", *ANSWERS),
        _gate,
        _changes,
    ),
    Experiment(
        "engine.csv",
        "The engine against its targets",
        ("case", "method", "R", "target", "ratio", "target", "over"),
        _engine,
    ),
    Experiment(
        "transformers.csv",
        "Hugging Face's transformers: a step over the fastest backprop's",
        ("model", "method", "ratio", "target", "floor", "over"),
        _transformers,
    ),
    Experiment(
        "overhead.csv",
        "Small models: a forward step over other steps",
        ("model", "method", "execution", "over", "ratio"),
        _overhead,
    ),
    Experiment(
        "ways.csv",
        "Two ways to a program: a model's own Python, recorded, and the graph of torch.export",
        ("model", "execution", "way", "step over the first way's", "ready in", "remarks"),
        _ways,
    ),
    Experiment(
        "layers.csv",
        "One layer's tangents a step: variance against cost",
        ("model", "method", "ratio", "variance ×", "over"),
        _layers,
    ),
    Experiment(
        "steadying_best.csv",
        "Means against noise, on MNIST: the largest rate borne, and the way to a validation loss of 0.5",
        ("method", "means", "largest rate", "best rate", "steps", "time"),
        _steadying,
    ),
    Experiment(
        "readings_ends.csv",
        "Readings of Baydin et al.'s MLP at 2e-4 · exp(−1e-4 i): which of them trains",
        ("weights", "pixels", "means", "method", "steps", "lowest loss", "steps to backprop's lowest"),
        _readings,
    ),
    Experiment(
        "prediction.csv",
        "Ratios as predicted from counts, and as measured",
        ("model", "method", "predicted", "measured", "error"),
        _prediction,
    ),
)
