"""The losses of runs, by seed."""

from __future__ import annotations

import math

import pandas as pd

from fgbench.summary.losses import losses_of_runs


def test_each_run_has_its_losses_and_its_seed_wherever_its_rows_stand():
    """Methods take turns at training, so that the rows of runs are mixed."""
    losses = {("a", 1): [3.0, 1.0, 1.5], ("b", 1): [3.0, 2.0], ("a", 2): [3.0, math.nan]}
    rows = [
        {
            "job": f"{method}/{seed}",
            "method": method,
            "seed": seed,
            "at": at,
            "validation_loss": loss,
            "validation_accuracy": at / 10,
        }
        for (method, seed), own in losses.items()
        for at, loss in enumerate(own)
    ]
    found = losses_of_runs(pd.DataFrame(rows).sort_values(["at", "job"]))
    assert found.loc["a/1"].tolist() == ["a", 1, 2, 1.5, 0.2, 1.0, 0.5, 2.0]
    assert found.loc["b/1"].tolist() == ["b", 1, 1, 2.0, 0.1, 2.0, 0.0, 1.0]
    diverged = found.loc["a/2", ["validation_loss", "rise"]]
    assert diverged.isna().all()


def test_without_curves_no_run_ended():
    columns = ["job", "method", "seed", "validation_loss", "validation_accuracy"]
    assert losses_of_runs(pd.DataFrame(columns=columns)).empty
