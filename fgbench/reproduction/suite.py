"""A paper's suite: its experiments at every scale, and the paper's claims."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from fgbench.errors import UsageError
from fgbench.measurement.statistics import Estimate

STRICT = ConfigDict(extra="forbid", strict=True)
KindName = Literal["jobs", "functions", "approximation", "alignment"]
PART = "+"  # `name+part` is a part of the run `name`
MARKS = {
    "R": "read in the source",
    "D": "digitised from a figure, ±3 %",
    "C": "computed, not printed there",
}

Note = Callable[[str, float], None]
"""Called with what is being done and the share that is done, from 0 to 1."""


class Kind(Protocol):
    """A kind of experiment: a module of this package with these functions."""

    def seconds(self, settings: Mapping[str, Any]) -> float:
        """About how long `measure` takes, in seconds."""

    def measure(self, settings: Mapping[str, Any], folder: Path, note: Note) -> None:
        """Measure, and write CSVs into an existing folder."""

    def figure_names(self, settings: Mapping[str, Any]) -> set[str]:
        """The keys of all figures that a measurement with these settings can give."""

    def figures(self, folder: Path) -> dict[str, Estimate]:
        """The figures in those CSVs, by key."""

    def draw(self, folder: Path, out: Path, claims: Mapping[str, float]) -> list[Path]:
        """Draw charts as PNG into `out`; `claims` are the paper's values by figure key."""


@checked_dataclass(frozen=True, config=STRICT)
class Claim:
    """What a paper says of one figure.

    Attributes:
        text: the claim in words.
        where: its place in the paper.
        mark: where the number comes from: R, D or C, as in MARKS; empty for a claim without a number.
        figure: the key of the figure that is measured for it.
        test: `near` (the figure is within `tolerance` of `value`), `below` or `above` (of `bound`, or of
            the figure `than`), or `none`, if nothing measured here can decide it.
        value: the paper's number; None where it gives none.
        bound: the limit, for `below` and `above`.
        than: the key of another figure, which takes the place of the bound.
        tolerance: as a share of `value`, for `near`.
        needs: the smallest scale at which it can be judged.
        why: why it cannot be compared below that scale, or at all.
    """

    text: str
    where: str
    figure: str
    test: Literal["near", "below", "above", "none"]
    mark: Literal["", "R", "D", "C"] = ""
    value: float | None = None
    bound: float = 1.0
    than: str = ""
    tolerance: float = 0.1
    needs: Literal["smoke", "laptop", "paper", "full"] = "laptop"
    why: str = ""

    @model_validator(mode="after")
    def _number_and_mark(self) -> Claim:
        if self.test == "near" and self.value is None:
            raise ValueError("a claim that is near a value needs the key 'value'")
        if (self.value is None) != (not self.mark):
            raise ValueError("the keys 'value' and 'mark' go together: a number says where it comes from")
        return self

    @property
    def of_the_paper(self) -> bool:
        """Whether its value is the paper's own; a value computed by us (mark C) is not."""
        return self.mark in ("R", "D")


@dataclass(frozen=True)
class Experiment:
    """One experiment of a paper.

    Attributes:
        name, title, claims: what it is called, what it does, and what the paper says of it.
        kind: the module of this package that measures it.
        scales: its settings, by scale.
        runs: the names of those of its runs that are to be measured, with all their parts; empty for all.
    """

    name: str
    title: str
    kind: str
    scales: Mapping[str, Mapping[str, Any]]
    claims: Sequence[Claim]
    runs: tuple[str, ...] = ()

    def settings(self, scale: str) -> Mapping[str, Any]:
        """The settings for its kind's `measure` at a scale.

        Raises:
            UsageError: it has no run of a name that was asked for at this scale.
        """
        settings = self.scales[scale]
        if not self.runs:
            return settings
        known = settings.get("runs", {})
        for run in self.runs:
            if run not in {*known, *map(run_of, known)}:
                has = ", ".join(f"{self.name}/{k}" for k in known) or "no parts"
                raise UsageError(f"--only {self.name}/{run}: {self.name} has {has} at the scale {scale}.")
        asked = {run: own for run, own in known.items() if {run, run_of(run)} & set(self.runs)}
        return {**settings, "runs": asked}

    def seconds_here(self, scale: str) -> float:
        """About how long it takes on this machine at most; of jobs, by a few steps of each."""
        by = importlib.import_module(f"fgbench.reproduction.{self.kind}")
        return float(getattr(by, "seconds_here", by.seconds)(self.settings(scale)))

    def takes(self, figure: str, scale: str, folder: Path) -> str:
        """What a figure would take at a scale, by what is measured in the folder; empty if not known."""
        by = importlib.import_module(f"fgbench.reproduction.{self.kind}")
        told = getattr(by, "takes", lambda figure, settings, folder: "")(figure, self.scales[scale], folder)
        return str(told)

    def by_seed(self, folder: Path) -> Mapping[str, Mapping[int, float]]:
        """Those figures that are of runs matched by seed, by key and by seed; a kind may have none."""
        by = importlib.import_module(f"fgbench.reproduction.{self.kind}")
        found: Mapping[str, Mapping[int, float]] = getattr(by, "by_seed", lambda folder: {})(folder)
        return found

    @property
    def by(self) -> Kind:
        """The module that measures it."""
        return cast("Kind", importlib.import_module(f"fgbench.reproduction.{self.kind}"))


@dataclass(frozen=True)
class Suite:
    """A paper, its experiments and its claims."""

    name: str
    title: str
    source: str
    experiments: Sequence[Experiment]

    def only(self, names: Sequence[str]) -> Sequence[Experiment]:
        """The experiments of these names; all of them where no name is given.

        Args:
            names: `fc` is the whole of an experiment, and `fc/w256` one of its runs.

        Raises:
            UsageError: there is no experiment of that name.
        """
        known = {experiment.name: experiment for experiment in self.experiments}
        for name in names:
            if name.partition("/")[0] not in known:
                raise UsageError(f"--only {name}: {self.name} has {', '.join(known)}.")
        return [replace(e, runs=_runs(e.name, names)) for e in self.experiments if _asked(e.name, names)]


def run_of(run: str) -> str:
    """The name of the run that a run is a part of; its own where it is none."""
    return run.partition(PART)[0]


def _asked(experiment: str, names: Sequence[str]) -> bool:
    return not names or experiment in (name.partition("/")[0] for name in names)


def _runs(experiment: str, names: Sequence[str]) -> tuple[str, ...]:
    """The runs of an experiment that were asked for; none where the whole of it was."""
    if experiment in names:
        return ()
    own = (name.partition("/") for name in names)
    return tuple(dict.fromkeys(run for of, _, run in own if of == experiment))
