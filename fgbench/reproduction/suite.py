"""A paper's suite: its experiments at every scale, and what it claims."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from fgbench.errors import UsageError
from fgbench.measurement.statistics import Estimate

STRICT = ConfigDict(extra="forbid", strict=True)
KindName = Literal["jobs", "functions", "approximation", "alignment"]
MARKS = {"R": "read in the source", "D": "digitised from a figure, ±3 %", "C": "computed, an oracle"}

Note = Callable[[str, float], None]
"""Told what is being done, and the share that is done."""


class Kind(Protocol):
    """How a kind of experiment is measured, read and drawn: a module of this package."""

    def seconds(self, settings: Mapping[str, Any]) -> float:
        """About how long it takes."""

    def measure(self, settings: Mapping[str, Any], folder: Path, note: Note) -> None:
        """Measure into a folder's CSVs; `note` is told what is done and how far it is, from 0 to 1."""

    def figure_names(self, settings: Mapping[str, Any]) -> set[str]:
        """The names of all figures that a measurement with these settings can give."""

    def figures(self, folder: Path) -> dict[str, Estimate]:
        """What those CSVs say, by name."""

    def draw(self, folder: Path, out: Path, claims: Mapping[str, float]) -> list[Path]:
        """Charts as PNG, with the paper's values by the figure's name."""


@checked_dataclass(frozen=True, config=STRICT)
class Claim:
    """What a paper says of one figure.

    Attributes:
        text: the claim.
        where: in the paper.
        mark: R, D or C, as in MARKS; empty for a sentence without a number.
        figure: name of what was measured for it.
        test: near (within `tolerance` of `value`), below or above (`bound`, or the figure `than`), or
            none: nothing here can decide it.
        value: the paper's; None where it gives none.
        bound: of below and above.
        than: another figure in place of the bound.
        tolerance: share, of near.
        needs: the smallest scale that can decide it.
        why: what stands against a comparison.
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
        """Whether its value may be drawn as the paper's: an oracle's is not."""
        return self.mark in ("R", "D")


@dataclass(frozen=True)
class Experiment:
    """One experiment of a paper."""

    name: str
    title: str
    kind: str
    scales: Mapping[str, Mapping[str, Any]]
    claims: Sequence[Claim]

    def settings(self, scale: str) -> Mapping[str, Any]:
        """What its kind's `measure` takes, at a scale."""
        return self.scales[scale]

    def seconds_here(self, scale: str) -> float:
        """About how long it takes on this machine at most; of jobs, by a few steps of each."""
        by = importlib.import_module(f"fgbench.reproduction.{self.kind}")
        return float(getattr(by, "seconds_here", by.seconds)(self.settings(scale)))

    def takes(self, claim: Claim, folder: Path) -> str:
        """What a claim out of reach would take, by what is measured in the folder; empty if not known."""
        by = importlib.import_module(f"fgbench.reproduction.{self.kind}")
        told = getattr(by, "takes", lambda figure, settings, folder: "")(
            claim.figure, self.settings(claim.needs), folder
        )
        return str(told)

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
        """The experiments of these names, all where none is given.

        Raises:
            UsageError: no such experiment.
        """
        known = [experiment.name for experiment in self.experiments]
        for name in names:
            if name not in known:
                raise UsageError(f"--only {name}: {self.name} has {', '.join(known)}.")
        return [e for e in self.experiments if not names or e.name in names]
