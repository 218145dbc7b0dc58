"""How jobs ended, and what follows for the method."""

from __future__ import annotations

import pandas as pd
import pytest

from fgbench.store.jobs import ENDED_EARLY, curves_to_the_end, cut_off, leaves_out


@pytest.mark.parametrize(
    ("phase", "status", "detail", "left_out"),
    [
        ("time", "ok", None, False),
        ("time", "error", "the step is wrong", True),
        ("memory", "oom", "no memory", True),
        ("train", "diverged", None, False),
        ("time", "error", f"{ENDED_EARLY}killed", False),
        ("cost", "error", "it cannot be counted", False),
        ("quality", "error", "no gradient", False),
    ],
)
def test_a_method_is_left_out_after_a_failure_that_says_it_does_not_train(phase, status, detail, left_out):
    jobs = pd.DataFrame([{"phase": phase, "status": status, "detail": detail}])
    assert leaves_out(jobs).tolist() == [left_out]


def test_a_job_is_cut_off_by_the_user_or_with_its_worker_and_not_by_its_own_failure():
    status, detail = (
        ["ok", "interrupted", "oom", "oom"],
        [None, "by the user", f"{ENDED_EARLY}9", "no memory"],
    )
    assert cut_off(pd.DataFrame({"status": status, "detail": detail})).tolist() == [False, True, True, False]


def test_curves_to_the_end_are_of_jobs_that_have_a_row_and_did_not_fail():
    statuses = ["ok", "diverged", "interrupted", "oom", "error"]
    jobs = pd.DataFrame({"job": list("abcde"), "phase": "train", "status": statuses, "detail": None})
    assert list(curves_to_the_end(pd.DataFrame({"job": list("aabcdef")}), jobs)["job"]) == ["a", "a", "b"]
