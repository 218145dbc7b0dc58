"""Read the papers' suites from TOML and check them; an error names the file, the claim and the key."""

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
    """A suite's file: the keys at its top."""

    title: str
    source: str
    experiments: list[Table]


@dataclass(frozen=True, config=STRICT)
class _Entry:
    """An experiment in the file; `all` holds at every scale, unless the scale says otherwise.

    One that says nothing of `paper` is at that scale as it is at `laptop`.
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
    """The names of the papers, sorted."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.toml")))


def load(name: str) -> Suite:
    """The suite of a paper.

    Raises:
        UsageError: there is no such paper, or its file is not valid.
    """
    if name not in names():
        raise UsageError(f"no paper '{name}': choose from {', '.join(names())}.")
    return read(FOLDER / f"{name}.toml")


def read(file: Path) -> Suite:
    """A suite from its file.

    Raises:
        UsageError: the file is not TOML; a key is unknown, missing or of a wrong type; nothing can be
            measured with the settings; no scale of the experiment gives the figure of a claim.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file.name} is not valid TOML: {error}.") from error
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
    """The keys of all figures that some scale gives."""
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
    """A table as a dataclass of this kind; `where` begins the message if it is not valid."""
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
        return f"no such key; the keys are {', '.join(keys)}"
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _keys(kind: type) -> list[str]:
    return list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
