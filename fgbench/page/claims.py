"""Read the papers' claims that `fgbench reproduce` stored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fgbench.errors import ResultsError

VERDICTS = ("reproduced", "not reproduced", "not comparable")
CELLS = 5  # experiment, claim, expected, measured here, verdict
BEYOND = "(beyond the paper)"  # in the place of where the paper says it: it does not


@dataclass(frozen=True)
class Claim:
    """One row of claims.md; `verdict` is one of `VERDICTS`, and `why` its reason."""

    experiment: str
    text: str
    expected: str
    measured: str
    verdict: str
    why: str


@dataclass(frozen=True)
class Paper:
    """A reproduction of a paper: the folder it is stored in, the paper, the scale and the claims."""

    folder: Path
    source: str
    scale: str
    claims: tuple[Claim, ...]

    @property
    def counts(self) -> str:
        """How many claims have each verdict, in words, as `counted` tells them."""
        return counted((claim.expected, claim.verdict) for claim in self.claims)


def counted(claims: Iterable[tuple[str, str]]) -> str:
    """How many claims have each verdict, in words; apart from the paper's own those that are not.

    Args:
        claims: what was expected, with its place and mark as in claims.md, and the verdict.
    """
    kinds = {kind: Counter[str]() for kind in ("", "of computed values", "of what is asked beyond the paper")}
    own, computed, beyond = kinds.values()
    for expected, verdict in claims:
        kind = computed if expected.endswith("[C]") else beyond if BEYOND in expected else own
        kind[verdict] += 1
    told = {
        kind: ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict])
        for kind, found in kinds.items()
    }
    return "; ".join(f"{kind} {counts}".strip() for kind, counts in told.items() if counts)


def find_papers(source: Path) -> list[Paper]:
    """Every reproduction at or below a folder.

    Raises:
        ResultsError: a claims.json or claims.md is damaged.
    """
    return [_paper(file.parent) for file in sorted(source.rglob("claims.json"))]


def _paper(folder: Path) -> Paper:
    try:
        facts = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
        lines = (folder / "claims.md").read_text(encoding="utf-8").splitlines()[2:]
        return Paper(folder, str(facts["source"]), str(facts["scale"]), tuple(map(_claim, lines)))
    except OSError as error:
        raise ResultsError(f"{error.filename}: cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"{folder}: its claims are damaged ({error}); reproduce the paper again."
        ) from error


def _claim(line: str) -> Claim:
    cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split(" | ")]
    verdict, _, why = cells[-1].partition(": ")
    if len(cells) != CELLS or verdict not in VERDICTS:
        raise ValueError(f"not a row of claims: {line[:60]}")
    experiment, text, expected, measured, _ = cells
    return Claim(experiment, text, expected, measured, verdict, why)
