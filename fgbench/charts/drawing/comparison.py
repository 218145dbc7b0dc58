"""Comparisons: matched groups that one figure may show together, as they are equal in all but depth."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from fgbench.architectures import short_name
from fgbench.charts.drawing.style import Look, looks_of
from fgbench.measurement.environment import conditions
from fgbench.report.figures import device_words, model_words
from fgbench.store.jobs import within_budget
from fgbench.store.run_folder import RunFolder, environment_of
from fgbench.summary.parts import split
from fgbench.summary.table import GROUP_COLUMNS, summarise
from fgbench.summary.targets import headline, with_endings

SETUP = (
    *(column for column in GROUP_COLUMNS if column != "depth"),
    "validation_size",
    "device_name",
    "torch",
    "reference",
)
FIGURES = (
    *("r", "r_low", "r_high", "ratio", "ratio_low", "ratio_high", "processes", "rounds"),
    *("seconds", "floor_ratio", "floor_share", "cosine", "second_moment"),
    *("joules", "peak_bytes", "target_loss", "target_accuracy", "reached", "runs", "t", "t_low", "t_high"),
)
TABLES = ("jobs", "memory", "curves", "targets", "search", "cost", "quality", "variants")


@dataclass(frozen=True)
class Comparison:
    """Groups of one setup that differ in depth alone, each measured once.

    Attributes:
        rows: rows of the summary, one for each method of each group, in order of depth.
        tables: jobs, memory, curves, search, cost, quality and variants of those groups, `targets` (the
            headline one of each), `every_target`, and the `parts` of their steps.
        looks: the look of every method in all runs that are drawn, so that it is the same in every chart.
        run: the run's name, if another run measured the same groups.
        mark: makes the file name unique where the rest of it is not.
    """

    rows: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]
    looks: Mapping[str, Look]
    run: str = ""
    mark: str = ""

    @property
    def setup(self) -> pd.Series:
        """What its groups have in common."""
        return self.rows.iloc[0]

    @property
    def depths(self) -> list[int]:
        """The depths, ascending."""
        return [int(depth) for depth in self.rows["depth"].unique()]

    @property
    def methods(self) -> list[str]:
        """The methods in the order of the legend: the reference comes first."""
        return sorted(self.rows["method"].unique(), key=lambda m: (m != self.setup["reference"], m))

    def row(self, method: str) -> pd.Series:
        """A method's row of the summary, in a single group."""
        return self.rows[self.rows["method"] == method].iloc[0]

    @cached_property
    def by_depth(self) -> list[Comparison]:
        """A comparison for each group."""
        return [self._of(self.rows[self.rows["depth"] == depth]) for depth in self.depths]

    @property
    def sentence(self) -> str:
        """What was compared on what, for the title."""
        s = self.setup
        depth = f"depth {self.depths[0]}, " if len(self.depths) == 1 else ""
        model = f"{short_name(s['arch'])}, {depth}width {s['width']}, batch {s['batch']}"
        mode = ", ".join([s["dtype"], *self._odd])
        known = model_words(s if len(self.depths) == 1 else s.drop("parameters", errors="ignore"))
        parts = [model, known, s["dataset"], mode, device_words(s), f"torch {s['torch']}", self.run]
        return " · ".join(part for part in parts if part)

    @property
    def _odd(self) -> list[str]:
        """Conditions that are not the default."""
        plain = {"execution": "eager", "optimizer": "sgd"}
        return [self.setup[name] for name, usual in plain.items() if self.setup[name] != usual]

    @property
    def slug(self) -> str:
        """What was compared on what, for the file's name."""
        s = self.setup
        depth = f"d{self.depths[0]}" if len(self.depths) == 1 else "depths"
        odd = [
            s["dtype"] if s["dtype"] != "float32" else "",
            *self._odd,
            s["trained"] if s["trained"] != "all" else "",
        ]
        model = [short_name(s["arch"]), depth, f"w{s['width']}", f"b{s['batch']}", s["dataset"]]
        return re.sub(
            r"[^a-z0-9.]+", "-", "-".join([*model, *odd, device_words(s), self.run, self.mark]).lower()
        ).strip("-")

    def _of(self, rows: pd.DataFrame) -> Comparison:
        keys = pd.MultiIndex.from_frame(rows[["run", "group"]])
        tables = {
            name: table[pd.MultiIndex.from_frame(table[["run", "group"]]).isin(keys)]
            for name, table in self.tables.items()
        }
        return replace(self, rows=rows, tables=tables)


def comparisons(
    runs: Sequence[RunFolder], each: Callable[..., Iterable[pd.DataFrame]] = map
) -> list[Comparison]:
    """All comparisons that these runs allow, oldest run first.

    Args:
        runs: the runs.
        each: like `map`; it is given the function that summarises a run.

    Raises:
        ResultsError: a damaged table.
    """
    if not runs:
        return []
    summaries = each(_summary, range(len(runs)), runs)  # other processes make them while tables are read here
    tables = _tables(runs)
    parts = [part for part in summaries if not part.empty]
    if not parts:
        return []
    rows = pd.concat(parts, ignore_index=True).sort_values("depth", kind="stable")
    splits = [split(run).assign(run=index) for index, run in enumerate(runs)]
    tables["parts"] = pd.concat(splits, ignore_index=True)
    tables["every_target"] = tables["targets"]
    tables["targets"] = _headlines(tables["targets"])
    whole = Comparison(rows, tables, looks={})
    found = [
        part
        for _, setup in rows.groupby(list(SETUP), sort=False, dropna=False)
        for part in _once(whole, setup)
    ]
    found.sort(key=lambda comparison: int(comparison.rows["run"].min()))
    looks = looks_of(rows["method"].unique(), [comparison.methods for comparison in found])
    return [replace(comparison, looks=looks) for comparison in _told_apart(found)]


def _once(whole: Comparison, setup: pd.DataFrame) -> Iterable[Comparison]:
    """One comparison, or one for each run if two runs measured the same method of the same group."""
    if not setup.duplicated(["depth", "method"]).any():
        yield whole._of(setup)
        return
    for _, rows in setup.groupby("run", sort=True):
        yield replace(whole._of(rows), run=rows["run_name"].iloc[0])


def _told_apart(found: Sequence[Comparison]) -> list[Comparison]:
    """Set `mark` on every comparison whose file name another one would have too."""
    count = Counter(comparison.slug for comparison in found)
    return [replace(c, mark=_digest(c)) if count[c.slug] > 1 else c for c in found]


def _digest(comparison: Comparison) -> str:
    text = repr([comparison.setup[["run", *SETUP]].tolist()])
    return hashlib.blake2b(text.encode(), digest_size=3).hexdigest()


def _summary(index: int, run: RunFolder) -> pd.DataFrame:
    summary = summarise(run)
    if summary.empty:
        return summary
    facts = run.facts()
    sizes = {group["name"]: group.get("validation_size") for group in facts["groups"]}
    torch = {g["name"]: conditions(environment_of(facts, g))["torch"] for g in facts["groups"]}
    figures = {name: pd.to_numeric(summary[name]).astype("float64") for name in FIGURES}
    return summary.assign(
        **figures,
        run=index,
        run_name=run.path.name,
        validation_size=summary["group"].map(sizes),
        torch=summary["group"].map(lambda group: ".".join(torch[group].split(".")[:2])),
    )


def _tables(runs: Iterable[RunFolder]) -> dict[str, pd.DataFrame]:
    """Each of `TABLES` of all runs, with the run's index."""
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in TABLES}
    for index, run in enumerate(runs):
        own = {name: run.read(name) for name in TABLES}
        own["targets"] = with_endings(own["targets"], own["curves"], own["jobs"])
        own["curves"] = within_budget(own["curves"])
        for name, table in own.items():
            frames[name].append(table.assign(run=index))
    return {name: pd.concat(own, ignore_index=True) for name, own in frames.items()}


def _headlines(targets: pd.DataFrame) -> pd.DataFrame:
    own = [headline(rows) for _, rows in targets.groupby(["run", "group"], sort=False)]
    return pd.concat(own, ignore_index=True) if own else targets
