"""The house stays as drawn: rooms import what stands below, modules import in no circle, files are short.

Read from the code, so that imports inside functions and under TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 350  # lines of a file

# From the ground up. A room imports rooms of the storeys below its own, and itself.
STOREYS = (
    ("errors", "version", "ending"),
    ("optional",),
    ("specs", "measurement", "pushforward"),
    ("architectures", "datasets", "methods"),
    ("functions", "training"),
    ("store",),
    ("summary",),
    ("plan",),
    ("report",),
    ("regression",),
    ("charts",),
    ("page",),
    ("running",),  # nothing that reads results needs it
    ("cluster",),
    ("reproduction",),
    ("api",),
    ("experiments",),
    ("cli",),
    ("__main__",),
)
FREE = ("measurement", "pushforward")  # could be lifted out as libraries: they import none of fgbench

# Imports that may go against the order or close a circle, each with its reason.
ALLOWED = {
    (
        "methods.steps.oracle",
        "training.randomness",
    ): "it is about generators alone, and imports nothing of methods",
    ("experiments.engine", "cli"): "a script that gives `fgbench run` its commands",
    ("methods", "methods.steps.optimizer"): "only the type of an attribute, under TYPE_CHECKING",
    ("methods", "methods.steps.cudagraph"): "made only where a step is captured, inside a function",
}


def modules() -> dict[str, Path]:
    """Every module of the package, named from within it: `plan.config`; the package itself is empty."""
    files = (ROOT / "fgbench").rglob("*.py")
    paths = {file: file.relative_to(ROOT / "fgbench").with_suffix("").parts for file in files}
    return {".".join(p for p in parts if p != "__init__"): file for file, parts in paths.items()}


def imported(file: Path) -> Iterator[str]:
    """What a file imports of fgbench, as `fgbench.plan.config.Config`."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "fgbench")
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: imports are written in full, from fgbench on"
            if (node.module or "").split(".")[0] == "fgbench":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = modules()


def module_of(name: str) -> str:
    """The module that an imported name is, or is in."""
    parts = name.split(".")[1:]
    return next(m for n in range(len(parts), -1, -1) if (m := ".".join(parts[:n])) in MODULES)


@cache
def edges() -> set[tuple[str, str]]:
    """Every module with each that it imports, but for what is allowed."""
    return {(m, module_of(name)) for m, file in MODULES.items() for name in imported(file)} - ALLOWED.keys()


def test_a_room_imports_only_what_stands_below_it() -> None:
    height = {room: n for n, rooms in enumerate(STOREYS) for room in rooms}
    assert {module.split(".")[0] for module in MODULES if module} <= height.keys(), "a room without a storey"
    wrong = [
        f"{importer} imports {module}"
        for importer, module in edges()
        if importer and (own := importer.split(".")[0]) != (room := module.split(".")[0])
        if not room or height[room] >= height[own] or own in FREE
    ]
    assert not wrong, sorted(wrong)


def test_modules_import_each_other_in_no_circle() -> None:
    above: dict[str, set[str]] = {}
    for importer, module in edges():
        if importer != module:
            above.setdefault(importer, set()).add(module)
    try:
        TopologicalSorter(above).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' is imported by '.join(error.args[1])}")


def test_what_begins_with_an_underscore_stays_in_its_package() -> None:
    wrong = []
    for module, file in MODULES.items():
        for name in imported(file):
            parts = name.split(".")
            private = [n for n, part in enumerate(parts) if part.startswith("_") and part[:2] != "__"]
            if private and f"fgbench.{module}".split(".")[: private[0]] != parts[: private[0]]:
                wrong.append(f"{module} imports {name}")
    assert not wrong, sorted(wrong)


def test_no_file_is_too_long_to_read() -> None:
    lines = {os.fspath(f.relative_to(ROOT / "fgbench")): f.read_text().count("\n") for f in MODULES.values()}
    assert not {name: n for name, n in lines.items() if n > LONGEST}
