"""Which runs repeat others: copies, and runs that are part of a merged one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgbench.store.run_folder import RunFolder

Part = Mapping[str, Any]  # what a merged run says of a run that is part of it


def repeats(runs: Sequence[RunFolder]) -> dict[int, str]:
    """The places of the runs whose processes another one of them has too, each with why, in words.

    Of equal runs the first is no repeat. A merged run is one where all that it was merged from is there, as
    these also show how runs differ; where some of that is missing, what is there of it is. In place of a part
    that was merged itself there may be all of its own parts. Of two merged runs that have a part in common,
    the second is one.

    Raises:
        ResultsError: a run.json cannot be read.
    """
    facts = [run.facts() for run in runs]
    both = list(zip(runs, facts, strict=True))
    found: dict[int, str] = {}
    parts: list[tuple[RunFolder, Part]] = []
    for place, (run, own) in enumerate(both):
        merged = own.get("merged", ())
        if merged and all(_there(part, both) for part in merged):
            found[place] = "was merged from others that are here"
        else:
            parts += [(run, part) for part in merged]
    parts += [(run, deeper) for run, part in parts for deeper in _below(part)]
    paths: set[Path] = set()
    ids: dict[str, RunFolder] = {}
    joined: dict[str, RunFolder] = {}  # by the id of a part, the merged run that it counts in
    for place, (run, own) in enumerate(both):
        path, known = run.path.resolve(), own.get("id")
        whole = next((other for other, part in parts if _is(run, own, part)), None)
        if path in paths:
            found[place] = "is named twice, or is in two of the folders"
        elif known in ids:
            found[place] = f"is a copy of {ids[known].path}"
        elif whole and place not in found:
            found[place] = f"was merged into {whole.path} before"
        elif place not in found:
            own_parts = [part["id"] for part in _below(own) if "id" in part]
            if twice := next((id for id in own_parts if id in joined), None):
                found[place] = f"has a part in common with {joined[twice].path}"
            else:
                joined |= dict.fromkeys(own_parts, run)
        paths.add(path)
        if known:
            ids.setdefault(known, run)
    return found


def _there(part: Part, runs: Sequence[tuple[RunFolder, Mapping[str, Any]]]) -> bool:
    """Whether a part is among the runs, or all that it was merged from."""
    own = part.get("merged", ())
    return any(_is(*run, part) for run in runs) or (bool(own) and all(_there(deeper, runs) for deeper in own))


def _below(part: Part) -> Iterator[Part]:
    """What a part was merged from, however deep."""
    for deeper in part.get("merged", ()):
        yield deeper
        yield from _below(deeper)


def _is(run: RunFolder, facts: Mapping[str, Any], part: Part) -> bool:
    """Whether a run is what a merged run names as its part; older runs have no `id`."""
    if "id" in facts and "id" in part:
        return bool(facts["id"] == part["id"])
    both = (named(run, facts), part)
    own, other = ({key: value for key, value in one.items() if key != "merged"} for one in both)
    return own == other


def named(run: RunFolder, facts: Mapping[str, Any]) -> Part:
    """What a merged run says of each run that is part of it, with what that was merged from itself."""
    known = ("id", "command", "environment", "merged")
    return {"name": run.path.name, **{key: facts[key] for key in known if key in facts}}
