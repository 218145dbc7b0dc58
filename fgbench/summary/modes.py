"""Which execution modes and updates were found fastest, before anything else was timed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean, median

import pandas as pd

CANDIDATE = ["optimizer", "execution", "update"]


@dataclass(frozen=True)
class Choice:
    """The fastest way to run a method.

    Attributes:
        method, optimizer: the method and the optimiser that the choice is for.
        execution: the fastest execution mode.
        update: the fastest update; empty where the method has only one.
        rivals: the other updates in that mode, with their time as a multiple of the chosen one's.
    """

    method: str
    optimizer: str
    execution: str
    update: str
    rivals: dict[str, float]

    @property
    def sentence(self) -> str:
        """Which update was chosen, and by how much it is faster, in words."""
        rivals = ", ".join(f"{name} takes {_as_long(ratio)}" for name, ratio in self.rivals.items())
        return f"its update is {self.update}, the fastest here" + f": {rivals}" * bool(rivals)


def _as_long(ratio: float) -> str:
    times = f"{ratio:.3g}"
    return "as long" if times == "1" else f"{times} times as long"


def choices(modes: pd.DataFrame) -> Iterator[Choice]:
    """A choice for each method, and for each of its optimisers where its update depends on that.

    A candidate's seconds are divided by the mean of all candidates in the same process; the median of that
    over processes decides. A candidate that failed in some process is left out. The first optimiser's fastest
    mode is the method's.

    Args:
        modes: rows of modes.csv, of one matched group.
    """
    seconds = _seconds(modes)
    for method, by_candidate in seconds.items():
        whole = set().union(*by_candidate.values())
        timed = {key: own for key, own in by_candidate.items() if own and own.keys() == whole}
        means = {process: mean(own[process] for own in timed.values()) for process in whole if timed}
        relative = {key: median(s / means[p] for p, s in own.items()) for key, own in timed.items()}
        mode: str | None = None
        for optimizer in dict.fromkeys(optimizer for optimizer, *_ in by_candidate):
            own = {k: s for k, s in relative.items() if k[0] == optimizer and mode in (None, k[1])}
            if not own:
                continue
            best = min(own, key=lambda key: own[key])
            mode = best[1]
            others = {k[2]: s / own[best] for k, s in own.items() if k[1] == mode and k != best}
            yield Choice(method, best[0], mode, best[2], others)


def unusable(modes: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Methods and execution modes in which nothing ran in every process, and the first reason.

    Args:
        modes: rows of modes.csv, of one matched group.
    """
    filled = modes.fillna({"optimizer": "", "update": ""})
    for (method, execution), own in filled.groupby(["method", "execution"], sort=False):
        failed = own["seconds"].isna()
        if failed.groupby([own["optimizer"], own["update"]]).any().all():
            yield str(method), str(execution), str(own[failed]["detail"].iloc[0])


def _seconds(modes: pd.DataFrame) -> dict[str, dict[tuple[str, str, str], dict[int, float]]]:
    """The seconds of each method's candidates, by process; without those that failed there."""
    found: dict[str, dict[tuple[str, str, str], dict[int, float]]] = {}
    rows = modes.fillna({"optimizer": "", "update": "", "process": 0}).astype({"seconds": float})
    for method, *candidate, process, seconds in zip(
        *(rows[column] for column in ("method", *CANDIDATE, "process", "seconds")), strict=True
    ):
        optimizer, execution, update = map(str, candidate)
        own = found.setdefault(str(method), {}).setdefault((optimizer, execution, update), {})
        if not math.isnan(seconds):
            own[int(process)] = float(seconds)
    return found


def marked(modes: pd.DataFrame) -> pd.DataFrame:
    """The rows of modes.csv, with the column `chosen` set."""
    keys = ["method", *CANDIDATE]
    best = {(c.method, c.optimizer, c.execution, c.update) for c in choices(modes)}
    filled = modes.fillna({"optimizer": "", "update": ""})
    return modes.assign(chosen=[key in best for key in filled[keys].itertuples(index=False, name=None)])
