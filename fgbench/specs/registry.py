"""Find what is registered: the files of a kind's folder, and the entry points of other packages.

A file `fgbench/methods/spsa.py` that assigns `method = …` registers the method `spsa`; likewise
`architecture`, `dataset` and `function`. A package outside fgbench registers under the entry-point
group `fgbench.methods` (`fgbench.architectures` and so on), the entry point's object being what the
attribute would be. Names are listed without importing anything, so that shell completion and
error messages stay fast.
"""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from fgbench.errors import UsageError

KINDS = {
    "architectures": "architecture",
    "datasets": "dataset",
    "functions": "function",
    "methods": "method",
}


def names(kind: str) -> list[str]:
    """The registered names of a kind, sorted, found without importing their code."""
    return sorted({*_files(kind), *_entry_points(kind)})


@cache
def find(kind: str, name: str) -> Any:
    """What is registered under `name`.

    Raises:
        UsageError: there is no such name, or another package registers it but cannot be imported.
    """
    if name in _files(kind):
        module = importlib.import_module(f"fgbench.{kind}.{name.replace('-', '_')}")
        return getattr(module, KINDS[kind])
    if name in _entry_points(kind):
        try:
            return _entry_points(kind)[name].load()
        except Exception as error:
            raise UsageError(
                f"the {KINDS[kind]} '{name}' of {_entry_points(kind)[name].value} cannot be imported: {error}"
            ) from error
    raise UsageError(f"no {KINDS[kind]} '{name}': choose from {', '.join(names(kind))}.")


@cache
def _files(kind: str) -> tuple[str, ...]:
    folder = Path(__file__).parent.parent / kind
    return tuple(p.stem.replace("_", "-") for p in sorted(folder.glob("*.py")) if p.stem[0] != "_")


@cache
def _entry_points(kind: str) -> dict[str, EntryPoint]:
    return {e.name: e for e in entry_points(group=f"fgbench.{kind}")}
