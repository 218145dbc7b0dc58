"""Collect what a page shows of a folder of runs: comparisons, verdicts, doubts, runs, files and claims."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fgbench.charts.drawing.comparison import Comparison, comparisons
from fgbench.errors import ResultsError
from fgbench.page.claims import Paper, find_papers
from fgbench.report.doubts import doubts
from fgbench.report.words import findings
from fgbench.store.run_folder import RUN_FILE, RunFolder, find_runs
from fgbench.store.schema import Role
from fgbench.summary.table import aa_rows, summarise
from fgbench.summary.targets import by_target


@dataclass(frozen=True)
class Found:
    """All that was found in and below `source`; rows of a comparison name a run by its index in `runs`."""

    source: Path
    runs: Sequence[RunFolder]
    comparisons: Sequence[Comparison]
    papers: Sequence[Paper]

    def sentences(self, comparison: Comparison) -> list[str]:
        """The verdicts of a comparison's matched groups."""
        runs = {place: self.runs[place] for place in comparison.rows["run"].unique()}
        known = {place: (aa_rows(run), by_target(run)) for place, run in runs.items()}
        return [
            sentence
            for (place, _), group in comparison.rows.groupby(["run", "group"], sort=False)
            for sentence in findings(group, *known[place])
        ]

    def runs_of(self, comparison: Comparison) -> list[RunFolder]:
        """The runs that a comparison comes from."""
        return [self.runs[run] for run in comparison.rows["run"].unique()]

    def name_of(self, folder: Path) -> str:
        """A folder's path below the source; for the source itself, its name."""
        return str(folder.relative_to(self.source)) if folder != self.source else folder.resolve().name


def collect(source: Path) -> Found:
    """Read all runs and claims at or below a folder.

    Raises:
        ResultsError: there is neither a run nor a claim, a table is damaged or has another schema.
    """
    papers = find_papers(source) if source.is_dir() else []
    # A reproduction may have only claims on test functions, and no run.
    runs = find_runs(source) if not papers or any(source.rglob(RUN_FILE)) else []
    try:
        return Found(source, runs, comparisons(runs), papers)
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{source}: a {RUN_FILE} below it is damaged (it lacks {error}).") from error


def doubts_of(run: RunFolder) -> list[str]:
    """The warnings of a run's report."""
    return doubts(summarise(run), run.read("ratios"), run.read("samples"), run.seeds_before)


def environment(run: RunFolder) -> list[tuple[str, str]]:
    """A run's environment, as pairs of a name and a value."""
    return list(_flat(run.facts()["environment"]))


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        elif value is not None:
            text = f"{value:.2f}" if isinstance(value, float) else str(value)
            yield f"{before}{name}".replace("_", " "), text


def samples_of(found: Found, comparison: Comparison) -> list[dict[str, Any]]:
    """For each method and depth, how many blocks were timed in how many processes, and their quartiles."""
    rows = []
    samples = {place: found.runs[place].read("samples") for place in comparison.rows["run"].unique()}
    for (place, group), own in comparison.rows.groupby(["run", "group"], sort=False):
        timed = samples[place][samples[place]["group"] == group]
        timed = timed[(timed["role"] == Role.METHOD) & ~timed["warm_up"].astype(bool)]
        for method, blocks in timed.groupby("method", sort=False):
            quartiles = blocks["seconds"].quantile([0.25, 0.5, 0.75])
            rows.append(
                {
                    "method": method,
                    "depth": int(own["depth"].iloc[0]),
                    "blocks": len(blocks),
                    "processes": blocks["process"].nunique(),
                    "quartiles": quartiles.tolist(),
                }
            )
    return rows


@dataclass(frozen=True)
class File:
    """A CSV that the page contains; `packed` is its content, in gzip and base64."""

    folder: str
    name: str
    bytes: int
    packed: str


def files_of(found: Found) -> dict[str, list[File]]:
    """Every CSV at or below the source, packed or not, by its folder.

    Raises:
        ResultsError: a packed one cannot be unpacked.
    """
    files: dict[str, list[File]] = {}
    for path in sorted(found.source.rglob("*.csv*")):
        if path.name.endswith((".csv", ".csv.gz")):
            folder = found.name_of(path.parent)
            files.setdefault(folder, []).append(_file(folder, path))
    return files


def _file(folder: str, path: Path) -> File:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ResultsError(f"{path}: cannot be unpacked ({error}).") from error
    packed = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    return File(folder, path.name.removesuffix(".gz"), len(content), packed)


def extremes(frame: pd.DataFrame, name: str) -> tuple[float, float]:
    """The lowest and highest positive, finite value among a column's figures and their intervals' ends."""
    cells = frame[[name, f"{name}_low", f"{name}_high"]].astype(float).to_numpy().ravel()
    cells = cells[(cells > 0) & (cells < float("inf"))]
    return (float(cells.min()), float(cells.max())) if len(cells) else (1.0, 1.0)
