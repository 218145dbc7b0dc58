"""The phases, one file each; a file here is found without being listed anywhere.

Their order follows from the phases that each of them has to come after.
"""

from __future__ import annotations

import importlib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from fgbench.plan import Config
from fgbench.running.phase import Phase


@cache
def phases() -> tuple[Phase, ...]:
    """All phases, sorted by name."""
    files = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem[0] != "_")
    return tuple(importlib.import_module(f"{__name__}.{name}").phase for name in files)


def find(name: str) -> Phase:
    """The phase of this name."""
    return next(phase for phase in phases() if phase.name == name)


def in_order(config: Config) -> list[Phase]:
    """The phases that a config asks for, each after those that it needs."""
    return [find(name) for name in TopologicalSorter(needs(config)).static_order()]


def needs(config: Config) -> dict[str, set[str]]:
    """The names of the phases that a config asks for, and of those that each has to come after."""
    asked = {phase.name: phase for phase in phases() if phase.asked(config)}
    return {name: set(phase.after(config)) & set(asked) for name, phase in asked.items()}
