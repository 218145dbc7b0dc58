"""Which runs repeat others: copies, and runs that are part of a merged one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fgbench.store.run_folder import RunFolder


def repeats(runs: Sequence[RunFolder]) -> dict[int, str]:
    """The places of the runs whose processes another one of them has too, each with why, in words.

    Of equal runs the first is no repeat. A merged run is one where all that it was merged from is there, as
    these also show how runs differ; where some of that is missing, what is there of it is.

    Raises:
        ResultsError: a run.json cannot be read.
    """
    facts = [run.facts() for run in runs]
    both = list(zip(runs, facts, strict=True))
    found: dict[int, str] = {}
    parts: list[tuple[RunFolder, Any]] = []
    for place, (run, own) in enumerate(both):
        merged = own.get("merged", ())
        if merged and all(any(_is(*other, part) for other in both) for part in merged):
            found[place] = "was merged from others that are here"
        else:
            parts += [(run, part) for part in merged]
    paths: set[Path] = set()
    ids: dict[str, RunFolder] = {}
    for place, (run, own) in enumerate(both):
        path, known = run.path.resolve(), own.get("id")
        whole = next((other for other, part in parts if _is(run, own, part)), None)
        if path in paths:
            found[place] = "is named twice, or is in two of the folders"
        elif known in ids:
            found[place] = f"is a copy of {ids[known].path}"
        elif whole and place not in found:
            found[place] = f"was merged into {whole.path} before"
        paths.add(path)
        if known:
            ids.setdefault(known, run)
    return found


def _is(run: RunFolder, facts: Mapping[str, Any], part: Mapping[str, Any]) -> bool:
    """Whether a run is what a merged run names as its part; older runs have no `id`."""
    return bool(facts["id"] == part["id"] if "id" in facts and "id" in part else named(run, facts) == part)


def named(run: RunFolder, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a merged run says of each run that is part of it."""
    known = ("id", "command", "environment")
    return {"name": run.path.name, **{key: facts[key] for key in known if key in facts}}
