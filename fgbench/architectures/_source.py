"""Hash the source of a user's own model: its file, and every local file that its code imports."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

INSTALLED = ("site-packages", "dist-packages")
FGBENCH = Path(__file__).resolve().parents[1]


def digest(start: Path) -> str:
    """A hash of a file and of all local files that it imports, directly or not, wherever the folder lies.

    A file is local if it belongs neither to Python nor to an installed package nor to fgbench, whose
    versions are recorded elsewhere. Imports are read from the code, including those inside functions. Names
    that are put together while the program runs and files that are not Python are not found.
    """
    start = start.resolve()
    left, files = [start], set[Path]()
    while left:
        file = left.pop()
        if file not in files:
            files.add(file)
            left += [found for found in _imported(file) if _is_local(found)]
    whole = hashlib.blake2b(digest_size=8)
    for name, file in sorted((os.path.relpath(file, start.parent), file) for file in files):
        whole.update(os.fsencode(f"{name}\0{file.stat().st_size}\0"))  # a name need not be UTF-8
        whole.update(file.read_bytes())
    return whole.hexdigest()


def _is_local(file: Path) -> bool:
    python = (Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
    elsewhere = (*python, FGBENCH)
    return not set(INSTALLED) & set(file.parts) and not any(map(file.is_relative_to, elsewhere))


def _imported(file: Path) -> Iterator[Path]:
    """The files of the modules that a file's code imports, as far as they can be found."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):  # such a file was never run, as the model was built
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(alias.name.split("."), None)
        if isinstance(node, ast.ImportFrom):
            # The name may be a module of a package or something inside a module; both are looked for.
            package = file.parents[node.level - 1] if node.level else None
            parts = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _files_of([*parts, alias.name], package)


def _files_of(parts: list[str], package: Path | None) -> Iterator[Path]:
    """For `a.b.c`, those files of a, a.b and a.b.c that exist; nothing is imported."""
    folders = [package] if package else []
    if package:
        yield from _existing(package / "__init__.py")
    else:
        spec = None
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(parts[0])
        if spec is None:
            return
        if spec.origin and spec.has_location:
            if not _is_local(Path(spec.origin).resolve()):
                return
            yield from _existing(Path(spec.origin))
        folders, parts = [Path(path) for path in spec.submodule_search_locations or ()], parts[1:]
    for part in parts:
        for folder in folders:
            yield from _existing(folder / f"{part}.py")
            yield from _existing(folder / part / "__init__.py")
        folders = [folder / part for folder in folders]


def _existing(file: Path) -> Iterator[Path]:
    if file.suffix == ".py" and file.is_file():
        yield file.resolve()
