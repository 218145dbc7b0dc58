"""The papers' suites, read from TOML and checked: what is wrong in one is a line of file, claim and key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from fgbench.errors import UsageError
from fgbench.reproduction.scale import LAPTOP, PAPER, SCALES
from fgbench.reproduction.suite import STRICT, Claim, Experiment, KindName, Suite

FOLDER = Path(__file__).parent.parent / "suites"
Table = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, config=STRICT)
class _File:
    """A suite's file."""

    title: str
    source: str
    experiments: list[Table]


@dataclass(frozen=True, config=STRICT)
class _Entry:
    """An experiment in it: what `all` says holds at every scale, and what a scale says goes before it.

    One that says nothing of `paper` is there as at `laptop`.
    """

    name: str
    title: str
    kind: KindName
    all: Table
    smoke: Table | None = None
    laptop: Table | None = None
    paper: Table | None = None
    full: Table | None = None
    claims: list[Table] | None = None


@cache
def names() -> tuple[str, ...]:
    """The papers, sorted."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))


def load(name: str) -> Suite:
    """The suite of a paper.

    Raises:
        UsageError: no such paper, or one that is written wrongly.
    """
    if name not in names():
        raise UsageError(f"no paper '{name}': there are {', '.join(names())}.")
    return read(FOLDER / f"{name}.toml")


def read(file: Path) -> Suite:
    """A suite from its file.

    Raises:
        UsageError: no TOML; a key that is unknown, missing or of a wrong type; settings with which nothing
            can be measured; a claim of a figure that no scale of its experiment gives.
    """
    try:
        table = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file.name}: is no TOML: {error}.") from error
    whole = _checked(_File, table, file.name)
    experiments = [_experiment(entry, number, file.name) for number, entry in enumerate(whole.experiments, 1)]
    return Suite(file.stem, whole.title, whole.source, experiments)


def _experiment(table: Table, number: int, file: str) -> Experiment:
    where = f"{file}, experiment {table.get('name', number)}"
    entry = _checked(_Entry, table, where)
    own = {scale: getattr(entry, scale) for scale in SCALES}
    own[PAPER] = own[LAPTOP] if own[PAPER] is None else own[PAPER]
    scales = {scale: {**entry.all, **(table or {})} for scale, table in own.items()}
    places = [f"{where}, claim {claim.get('text', n)!r}" for n, claim in enumerate(entry.claims or (), 1)]
    claims = [_checked(Claim, *pair) for pair in zip(entry.claims or (), places, strict=True)]
    experiment = Experiment(entry.name, entry.title, entry.kind, scales, claims)
    given = _figures(experiment, where)
    for claim, place in zip(claims, places, strict=True):
        for key in ("figure", "than"):
            if (figure := getattr(claim, key)) and figure not in given:
                raise UsageError(f"{place}, {key}: no scale of the experiment gives '{figure}'.")
    return experiment


def _figures(experiment: Experiment, where: str) -> set[str]:
    """Every figure that some scale gives."""
    found: set[str] = set()
    for scale in SCALES:
        try:
            found |= experiment.by.figure_names(experiment.settings(scale))
        except KeyError as error:
            raise UsageError(f"{where}, {scale}: {error} is missing.") from error
        except UsageError as error:
            raise UsageError(f"{where}, {scale}: {error}") from error
    return found


def _checked(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """What a table says, as a dataclass."""
    try:
        return kind(**table)
    except ValidationError as error:
        first = error.errors()[0]
        at = "".join(f", {key}" for key in first["loc"])
        raise UsageError(f"{where}{at}: {_words(first['type'], first['msg'], _keys(kind))}.") from error


def _words(fault: str, message: str, keys: Iterable[str]) -> str:
    if fault == "missing":
        return "is missing"
    if fault == "unexpected_keyword_argument":
        return f"no such key, there are {', '.join(keys)}"
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _keys(kind: type) -> list[str]:
    return list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
