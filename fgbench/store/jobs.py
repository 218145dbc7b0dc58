"""How jobs ended, from the rows of jobs.csv."""

from __future__ import annotations

import pandas as pd

OVER_BUDGET = "over budget"  # the status of a method that has no variant within the budget
ENDED_EARLY = "its process ended early: "  # the detail of jobs whose worker died begins like this


def died(jobs: pd.DataFrame) -> pd.Series:
    """Whether each job ended because its worker did."""
    return jobs["detail"].astype("string").str.startswith(ENDED_EARLY).fillna(value=False).astype(bool)


def leaves_out(jobs: pd.DataFrame) -> pd.Series:
    """Whether each job failed so that no later job of its group tries the method.

    One whose worker died does not: nobody knows which method the worker died of.
    """
    return jobs["status"].isin(("oom", "error", OVER_BUDGET)) & ~died(jobs)
