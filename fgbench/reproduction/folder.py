"""The folder of a reproduction, which says of which paper it is and at what scale it is measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fgbench.errors import UsageError
from fgbench.reproduction.scale import LAPTOP, SCALES
from fgbench.reproduction.suite import Suite
from fgbench.store.csv_table import replace_text

FACTS = "reproduction.json"  # written when the folder is made
CLAIMS = "claims.json"  # written when an experiment is measured; a folder that was stored has only this
NAME = re.compile(rf"(?:\d{{8}}-\d{{6}}-(?P<paper>.+)|.*)-(?P<scale>{'|'.join(SCALES)})")


def make(folder: Path, paper: str, scale: str) -> None:
    """Make a new folder for a paper.

    Raises:
        OSError: it is there, or cannot be written.
    """
    folder.mkdir(parents=True)
    _write(folder, paper, scale)


def go_on(folder: Path, suite: Suite, asked: str | None) -> str:
    """The scale of a folder whose reproduction is to go on.

    Args:
        folder: what `--resume` gives.
        suite: the paper's.
        asked: what `--scale` gives; None where it is left out.

    Raises:
        UsageError: it is not there, is no reproduction or one of another paper, or has another scale.
        OSError: it cannot be read or written.
    """
    if not folder.is_dir():
        raise UsageError(f"--resume {folder}: there is no such folder; leave --resume out to make a new one.")
    stored = _facts(folder)
    paper, scale = stored or _by_name(folder, suite)
    if not paper:
        raise UsageError(
            f"--resume {folder}: this is no reproduction of {suite.name}; name the folder that "
            f"`fgbench reproduce {suite.name}` made."
        )
    if paper != suite.name:
        raise UsageError(
            f"--resume {folder}: it is a reproduction of {paper}; go on with fgbench reproduce {paper}."
        )
    if asked not in (None, scale):
        raise UsageError(f"--resume {folder}: it was made at scale {scale}; leave --scale out.")
    if stored is None:
        _write(folder, paper, scale)
    return scale


def _write(folder: Path, paper: str, scale: str) -> None:
    replace_text(folder / FACTS, json.dumps({"paper": paper, "scale": scale}, indent=2) + "\n")


def _facts(folder: Path) -> tuple[str, str] | None:
    """The paper and the scale that the folder says itself; None where it says nothing."""
    for file in (folder / FACTS, folder / CLAIMS):
        if not file.exists():
            continue
        try:
            facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            paper, scale = str(facts["paper"]), str(facts["scale"])
        except (ValueError, KeyError, TypeError):
            scale = ""
        if scale not in SCALES:
            raise UsageError(f"{file} is damaged: it must hold the paper and the scale.")
        return paper, scale
    return None


def _by_name(folder: Path, suite: Suite) -> tuple[str, str]:
    """The same of a folder that was cut off before it said so; the paper is empty where nothing tells it."""
    name = NAME.fullmatch(folder.resolve().name)
    paper = name["paper"] if name else None
    if paper is None and any((folder / experiment.name).is_dir() for experiment in suite.experiments):
        paper = suite.name
    return paper or "", name["scale"] if name else LAPTOP
