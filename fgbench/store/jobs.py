"""How jobs ended, from the rows of jobs.csv."""

from __future__ import annotations

import pandas as pd

OVER_BUDGET = "over budget"  # the status of a method that has no variant within the budget
BESIDE = ("cost", "quality")  # phases that no other phase builds on
ENDED_EARLY = "its process ended early: "  # the detail of jobs whose worker died begins like this


def died(jobs: pd.DataFrame) -> pd.Series:
    """Whether each job ended because its worker did."""
    return jobs["detail"].astype("string").str.startswith(ENDED_EARLY).fillna(value=False).astype(bool)


def cut_off(jobs: pd.DataFrame) -> pd.Series:
    """Whether each job ended before its time, by Ctrl-C or with its worker."""
    return (jobs["status"] == "interrupted") | died(jobs)


def leaves_out(jobs: pd.DataFrame) -> pd.Series:
    """Whether each job failed so that no later job of its group tries the method.

    One whose worker died does not: nobody knows which method the worker died of. Nor does one that only
    counts or looks: that a method's cost cannot be told says nothing about whether it trains.
    """
    failed = jobs["status"].isin(("oom", "error", OVER_BUDGET))
    return failed & ~died(jobs) & ~jobs["phase"].isin(BESIDE)


def ended(jobs: pd.DataFrame) -> pd.Series:
    """Whether each job got to its end: it did not fail and was not cut off. One that diverged did."""
    return ~(leaves_out(jobs) | cut_off(jobs))


def within_budget(curves: pd.DataFrame) -> pd.DataFrame:
    """The evaluations of a run's own budget; what follows it only shows whether a target was held."""
    return curves[~curves["past_budget"].fillna(value=False).astype(bool)]


def curves_to_the_end(curves: pd.DataFrame, jobs: pd.DataFrame) -> pd.DataFrame:
    """The curves of jobs that got to their end; one that is under way, or was killed, has no row yet."""
    return curves[curves["job"].isin(jobs["job"][ended(jobs)])]
