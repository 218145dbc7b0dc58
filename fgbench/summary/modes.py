"""Which execution modes and updates were found fastest, before anything else was timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
        rivals = ", ".join(f"{name} takes {ratio:.3g} of its time" for name, ratio in self.rivals.items())
        return f"its update is {self.update}, the fastest here" + f": {rivals}" * bool(rivals)


def choices(modes: pd.DataFrame) -> Iterator[Choice]:
    """A choice for each method, and for each of its optimisers where its update depends on that.

    A candidate's seconds are divided by the mean of all candidates in the same process; the median of that
    over processes decides. A candidate that failed in some process is left out. The first optimiser's fastest
    mode is the method's.

    Args:
        modes: rows of modes.csv, of one matched group.
    """
    rows = modes.fillna({"optimizer": "", "update": "", "process": 0})
    for method, own in rows.groupby("method", sort=False):
        wide = own.pivot_table(index="process", columns=CANDIDATE, values="seconds", dropna=False)
        wide = wide.dropna(axis="columns")
        over_mean = wide.div(wide.mean(axis="columns"), axis="index").median()
        relative = {tuple(map(str, key)): float(s) for key, s in zip(wide.columns, over_mean, strict=True)}
        mode: str | None = None
        for optimizer in own["optimizer"].unique():
            timed = {k: s for k, s in relative.items() if k[0] == optimizer and mode in (None, k[1])}
            if not timed:
                continue
            best = min(timed, key=lambda key: timed[key])
            mode = best[1]
            others = {k[2]: s / timed[best] for k, s in timed.items() if k[1] == mode and k != best}
            yield Choice(str(method), best[0], mode, best[2], others)


def marked(modes: pd.DataFrame) -> pd.DataFrame:
    """The rows of modes.csv, with the column `chosen` set."""
    keys = ["method", *CANDIDATE]
    best = {(c.method, c.optimizer, c.execution, c.update) for c in choices(modes)}
    filled = modes.fillna({"optimizer": "", "update": ""})
    return modes.assign(chosen=[key in best for key in filled[keys].itertuples(index=False, name=None)])
