"""The losses of runs of training: a row for each, with its seed, as the runs of a group are matched by it."""

from __future__ import annotations

import pandas as pd

LEVELS = ("validation_loss", "lowest_loss")
LOSSES = (*LEVELS, "rise")


def losses_of_runs(curves: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of each run, by job, with its losses on the way there.

    `lowest_loss` is the lowest, `rise` how far the one at the end is above it, and `fall` how far it is below
    the first. Of a run that diverged the loss at the end and the rise are not finite.
    """
    runs = curves.groupby("job", sort=False)
    found, losses = runs.tail(1).set_index("job"), runs["validation_loss"]
    lowest = losses.min()
    rise, fall = found["validation_loss"] - lowest, losses.first() - lowest
    return found.assign(lowest_loss=lowest, rise=rise, fall=fall)
