"""The fastest way to run a method: the median over processes, each against its own others."""

from __future__ import annotations

import math

import pandas as pd

from fgbench.summary.modes import choices, marked


def rows(*given: tuple[int, str, str, str, str, float | None]) -> pd.DataFrame:
    names = ["process", "method", "optimizer", "execution", "update", "seconds"]
    return pd.DataFrame(given, columns=names).assign(chosen=pd.NA)


def found(modes: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    return [(c.method, c.optimizer, c.execution, c.update) for c in choices(modes)]


def updates(*seconds: dict[str, float | None]) -> pd.DataFrame:
    each = enumerate(seconds)
    return rows(*((p, "backprop", "sgd", "eager", u, s) for p, own in each for u, s in own.items()))


def test_the_median_over_processes_decides_and_a_slow_process_weighs_no_more():
    modes = updates(
        {"fused": 1.0, "direct": 1.1}, {"fused": 1.0, "direct": 1.1}, {"fused": 9.0, "direct": 5.0}
    )
    assert found(modes) == [("backprop", "sgd", "eager", "fused")]
    assert list(marked(modes)["chosen"]) == [True, False] * 3
    (choice,) = choices(modes)
    assert "its update is fused" in choice.sentence
    assert "direct takes 1.1 times as long" in choice.sentence
    (even,) = choices(updates({"fused": 1.0, "direct": 1.001}))
    assert even.sentence.endswith("direct takes as long")


def test_what_failed_in_a_process_is_out():
    modes = updates({"fused": 1.0, "in-backward": 0.5}, {"fused": 1.0, "in-backward": None})
    assert found(modes) == [("backprop", "sgd", "eager", "fused")]


def test_where_all_failed_nothing_is_chosen():
    modes = updates({"fused": None, "direct": None}).astype({"seconds": object})
    assert found(modes) == []


def test_a_method_of_which_every_candidate_failed_has_no_choice_and_the_others_have_theirs():
    failed = rows(*((p, "forward", "sgd", "eager", u, math.nan) for p in (0, 1) for u in ("fused", "direct")))
    modes = pd.concat([failed, updates({"fused": 1.0, "direct": 2.0})], ignore_index=True)
    assert found(modes) == [("backprop", "sgd", "eager", "fused")]
    assert not any(marked(failed)["chosen"])


def test_modes_and_updates_are_chosen_together_and_an_update_for_each_optimiser_in_that_mode():
    seconds = {
        ("sgd", "eager", "fused"): 4.0,
        ("sgd", "eager", "direct"): 2.0,
        ("sgd", "compile", "fused"): 1.0,
        ("sgd", "compile", "direct"): 3.0,
        ("adam", "eager", "fused"): 1.0,
        ("adam", "compile", "fused"): 6.0,
        ("adam", "compile", "in-backward"): 5.0,
    }
    own = [(0, "backprop", *key, s) for key, s in seconds.items()]
    base = [(0, "base", "sgd", "eager", "", 2.0), (0, "base", "sgd", "compile", "", 1.5)]
    assert found(rows(*base, *own)) == [
        ("base", "sgd", "compile", ""),
        ("backprop", "sgd", "compile", "fused"),
        ("backprop", "adam", "compile", "in-backward"),
    ]


def test_rows_of_an_older_version_have_modes_alone():
    modes = rows((0, "forward", "sgd", "eager", "", 2.0), (0, "forward", "sgd", "compile", "", 1.0))
    modes[["process", "optimizer", "update"]] = pd.NA
    assert found(modes) == [("forward", "", "compile", "")]
