"""The losses of runs of training: a row for each, with its seed, as the runs of a group are matched by it."""

from __future__ import annotations

import pandas as pd

LEVELS = ("validation_loss", "lowest_loss")
LOSSES = (*LEVELS, "rise")


def losses_of_runs(curves: pd.DataFrame) -> pd.DataFrame:
    """The method, the seed and the losses of each run, by job, and its `validation_accuracy` at the end.

    `validation_loss` is the one at the end, `lowest_loss` the lowest on the way there, and `rise` how far
    the one is above the other. Of a run that diverged the first and the last are not finite.
    """
    runs = curves.groupby("job", sort=False)
    found = runs.tail(1).set_index("job")[["method", "seed", "validation_loss", "validation_accuracy"]]
    lowest = runs["validation_loss"].min()
    return found.assign(lowest_loss=lowest, rise=found["validation_loss"] - lowest)
