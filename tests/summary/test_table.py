"""The one table, from a run folder that is written by hand: whole, partial, diverged, censored."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from fgbench.store.csv_table import records
from fgbench.store.run_folder import RunFolder
from fgbench.summary.table import _share_of, aa_rows, summarise
from fgbench.summary.targets import (
    by_target,
    chance_of,
    headline,
    stored_targets,
    target_rows,
    targets_of,
)
from fgbench.training.target import Target
from tests.builders import run_folder, tiny_group
from tests.charts import made_up

GROUP = tiny_group()


def curve(folder: RunFolder, method: str, seed: int, losses: list[float], pace: float = 1.0) -> None:
    job = f"{GROUP.name}/{method}/train/{seed}"
    finite = math.isfinite(losses[-1])
    folder.append(
        "jobs",
        {
            "job": job,
            "group": GROUP.name,
            "method": method,
            "phase": "train",
            "seed": seed,
            "learning_rate": 0.1,
            "status": "ok" if finite else "diverged",
        },
    )
    for i, loss in enumerate(losses):
        folder.append(
            "curves",
            {
                "job": job,
                "group": GROUP.name,
                "method": method,
                "seed": seed,
                "iteration": 10 * i,
                "train_seconds": pace * i,
                "validation_loss": loss,
                "validation_accuracy": 0.5,
            },
        )


def test_what_follows_the_budget_shows_that_a_target_was_held_and_counts_for_nothing_else(tmp_path):
    folder = run_folder(tmp_path, [GROUP])
    for method in ("backprop", "forward"):
        curve(folder, method, 1, [3.0, 2.0, 1.0, 0.9, 0.8])
    rows = folder.read("curves")
    past = (rows["method"] == "forward") & (rows["iteration"] > 20)
    folder.replace("curves", records(rows.assign(past_budget=past.mask(rows["method"] != "forward"))))
    with_targets(folder, "1.0,0.85")
    cells = summarise(folder).set_index("method")
    assert list(cells["validation_loss"]) == [0.8, 1.0]
    assert list(cells["lowest_loss"]) == [0.8, 1.0]
    assert list(cells["train_seconds"]) == [4.0, 2.0]
    table = by_target(folder).set_index(["target_loss", "method"])
    assert table.loc[(1.0, "forward"), ["reached", "t", "t_resolution"]].tolist() == [1, 2.0, 1.0]
    assert table.loc[(0.85, "forward"), ["reached", "missed", "missed_seconds"]].tolist() == [0, 1, 2.0]
    assert set(stored_targets(folder)["outcome"]) == {"reached", "censored"}


def test_a_run_that_diverged_past_its_budget_did_not_diverge(tmp_path):
    folder = run_folder(tmp_path, [GROUP])
    curve(folder, "backprop", 1, [3.0, 2.0, 1.0, 0.9, math.nan])
    rows = folder.read("curves")
    folder.replace("curves", records(rows.assign(past_budget=rows["iteration"] > 20)))
    folder.replace("jobs", records(folder.read("jobs").assign(status="ok")))
    with_targets(folder, "0.95")
    assert list(folder.read("targets")["outcome"]) == ["censored"]
    assert list(stored_targets(folder)["outcome"]) == ["censored"]


def with_targets(folder: RunFolder, asked: str = "auto", accuracy: str = "") -> None:
    curves = folder.read("curves")
    found = targets_of(curves, asked, accuracy, "backprop")
    folder.replace_group("targets", GROUP.name, target_rows(curves, folder.read("jobs"), found))


def trained(root, forward: list[list[float]], asked: str = "auto") -> pd.DataFrame:
    folder = run_folder(root, [GROUP])
    for seed, losses in enumerate(forward, start=1):
        curve(folder, "backprop", seed, [3.0, 1.0, 1.0, 1.0, 1.0])
        curve(folder, "forward", seed, losses, pace=2.0)
    with_targets(folder, asked)
    return summarise(folder).set_index("method")


FINE = [3.0, 2.0, 1.0, 1.0, 1.0]


def test_an_empty_run_has_a_row_for_each_method_and_nothing_in_it(tmp_path):
    table = summarise(run_folder(tmp_path, [GROUP]))
    assert list(table["method"]) == ["backprop", "forward"]
    for column in ("seconds", "r", "ratio", "peak_bytes", "t", "t_ratio", "validation_loss", "learning_rate"):
        assert table[column].isna().all(), column
    assert set(table["depth"]) == {GROUP.depth}
    assert set(table["device_name"]) == {"a processor"}


def test_times_to_target_and_their_factors(tmp_path):
    table = trained(tmp_path, [FINE, FINE])
    assert set(table["target_loss"]) == {1.0}
    assert (table.loc["backprop", "t"], table.loc["forward", "t"]) == pytest.approx((1.0, 4.0))
    assert table.loc["forward", "t_ratio"] == pytest.approx(4.0)
    assert table.loc["forward", "n_ratio"] == pytest.approx(2.0)
    assert table.loc["backprop", "t_ratio"] == pytest.approx(1.0)
    assert list(table["reached"]) == list(table["runs"]) == [2, 2]


def test_a_censored_run_counts_its_seconds_and_its_failure(tmp_path):
    table = trained(tmp_path, [FINE, [3.0, 2.9, 2.8, 2.8, 2.8]], asked="1.0")
    forward = table.loc["forward"]
    assert (forward["reached"], forward["runs"]) == (1, 2)
    assert forward["t"] == pytest.approx(4.0 + 8.0)
    assert pd.isna(forward["t_high"])


def test_a_method_that_never_reached_it_is_infinitely_far(tmp_path):
    table = trained(tmp_path, [[3.0, 2.9, 2.8, 2.8, 2.8]] * 2, asked="1.0")
    assert table.loc["forward", "reached"] == 0
    assert table.loc["forward", "t"] == math.inf
    assert table.loc["forward", "t_ratio"] == math.inf
    assert table.loc["forward", "t_low"] == 8.0, "what each run spent without getting there"
    most = table.loc["backprop", "t_high"]
    assert table.loc["forward", "t_ratio_low"] == pytest.approx(8.0 / most)


def test_a_method_that_always_diverged_has_no_bound(tmp_path):
    table = trained(tmp_path, [[3.0, 5.0, math.nan]] * 2, asked="1.0")
    assert table.loc["forward", "t"] == math.inf
    assert table.loc["forward", ["t_low", "t_ratio_low"]].isna().all()


@pytest.mark.parametrize(
    ("group", "chance"),
    [
        ({"dataset": "digits"}, math.log(10)),
        ({"dataset": "synthetic:shape=1x2x2,classes=4"}, math.log(4)),
        ({"dataset": "somebody's"}, None),
        ({"dataset": "digits", "chance_loss": 0.5}, 0.5),
    ],
)
def test_chance_is_stored_or_follows_from_an_older_runs_dataset(group, chance):
    assert chance_of(group) == chance


def test_a_diverged_run_is_said_and_spoils_the_final_loss(tmp_path):
    table = trained(tmp_path, [FINE, [3.0, 5.0, math.nan]])
    forward = table.loc["forward"]
    assert forward["status"] == "1 diverged"
    assert (forward["reached"], forward["runs"]) == (1, 2)
    assert pd.isna(forward["validation_loss"]), "a mean over the survivors would flatter"
    assert table.loc["backprop", "status"] == "ok"


def failing(folder: RunFolder, statuses: list[str], detail: str = "") -> None:
    """A run of forward for each status that is not ok, short of the target, under seeds from 1."""
    for seed, status in enumerate(statuses, start=1):
        curve(folder, "forward", seed, [3.0, 2.9])
        if status != "ok":
            jobs = folder.read("jobs")
            jobs.loc[jobs["seed"] == seed, ["status", "detail"]] = [status, detail]
            folder.replace("jobs", jobs.astype(object).where(jobs.notna(), None).to_dict("records"))


def outcomes(folder: RunFolder) -> list[str]:
    return list(stored_targets(folder).sort_values("seed")["outcome"])


def test_a_run_that_cannot_get_there_is_told_from_one_that_was_cut_short(tmp_path):
    folder = run_folder(tmp_path / "1", [GROUP])
    failing(folder, ["ok", "interrupted", "diverged", "oom", "error"])
    with_targets(folder, "1.0")
    expected = ["censored", "diverged"]  # an error says nothing of the time, nor does a run that was cut off
    assert list(folder.read("targets")["outcome"]) == expected == outcomes(folder)
    died = run_folder(tmp_path / "2", [GROUP])
    failing(died, ["error"], "its process ended early: which method did it, nobody knows")
    with_targets(died, "1.0")
    assert outcomes(died) == []


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        ("interrupted", "by the user"),
        ("oom", "no memory"),
        ("error", "the step is wrong"),
        ("error", "its process ended early: killed"),
    ],
)
def test_no_figure_at_the_end_is_of_a_run_that_did_not_get_there(tmp_path, status, detail):
    whole = [FINE, [3.0, 2.0, 1.0, 1.0, 0.5]]
    expected = trained(tmp_path / "whole", whole)
    folder = run_folder(tmp_path / "partial", [GROUP])
    failing(folder, [status], detail)
    for seed, losses in enumerate(whole, start=2):
        curve(folder, "forward", seed, losses, pace=2.0)
    curves = folder.read("curves")
    under_way = {**curves.iloc[0].to_dict(), "job": f"{GROUP.name}/forward/train/9", "seed": 9}
    folder.append("curves", under_way)
    row = summarise(folder).set_index("method").loc["forward"]
    names = ["validation_loss", "lowest_loss", "rise"]
    names += [f"{name}{end}" for name in names for end in ("_low", "_high")]
    names += ["fall", "validation_accuracy", "diverged_share", "evaluation_share", "train_seconds"]
    shown = row[names].astype(float).tolist()
    assert shown == pytest.approx(expected.loc["forward", names].astype(float).tolist(), nan_ok=True)
    assert row["status"] == f"1 {status}"
    alone = run_folder(tmp_path / "alone", [GROUP])
    failing(alone, [status], detail)
    assert summarise(alone).set_index("method").loc["forward", names].isna().all()


def test_an_older_file_that_calls_all_of_them_censored_is_read_by_its_curves_and_jobs(tmp_path):
    folder = run_folder(tmp_path, [GROUP])
    failing(folder, ["ok", "error"])
    curve(folder, "forward", 3, [3.0, math.nan])
    curve(folder, "forward", 4, FINE)
    with_targets(folder, "1.0")
    rows = folder.read("targets")
    jobs = folder.read("jobs")
    ended = rows.iloc[[0]].assign(job=jobs["job"][jobs["status"] == "error"].iloc[0], seed=2)
    old = pd.concat([rows, ended]).sort_values("seed")
    old["outcome"] = old["outcome"].where(old["outcome"] == "reached", "censored")
    folder.replace("targets", old.astype(object).where(old.notna(), None).to_dict("records"))
    assert list(folder.read("targets")["outcome"])[1:] == ["censored", "censored", "reached"]
    assert outcomes(folder) == ["censored", "diverged", "reached"]


def test_six_of_ten_that_diverge_leave_the_median_infinite_and_their_seconds_in_the_expected_time(tmp_path):
    folder = run_folder(tmp_path, [GROUP])
    for seed in range(1, 11):
        curve(folder, "backprop", seed, [3.0, 1.0, 1.0, 1.0])
        curve(folder, "forward", seed, FINE if seed > 6 else [3.0, math.nan])
    with_targets(folder, "1.0")
    row = by_target(folder).set_index("method").loc["forward"]
    assert (row["reached"], row["runs"]) == (4, 10)
    assert row["t_median"] == math.inf
    assert row["t"] == pytest.approx((6 * 1.0 + 4 * 2.0) / 4)


class TestBracket:
    """A time lies after the evaluation before the one that showed it."""

    def test_it_begins_a_step_after_the_evaluation_before(self, tmp_path):
        folder = run_folder(tmp_path, [GROUP])
        curve(folder, "forward", 1, FINE, pace=4.0)
        curve(folder, "forward", 2, [3.0] * 5, pace=4.0)
        with_targets(folder, "1.0")
        reached, missed = stored_targets(folder).to_dict("records")
        assert (reached["seconds"], reached["iterations"]) == (8.0, 20)
        assert reached["earliest_seconds"] == pytest.approx(4.4), "ten steps lie between"
        assert reached["earliest_iterations"] == 11
        assert (missed["earliest_seconds"], missed["earliest_iterations"]) == (16.0, 40)

    def test_a_time_within_the_first_evaluation_has_an_interval_above_0_that_holds_all_it_can_be(
        self, tmp_path
    ):
        backprop = trained(tmp_path, [FINE] * 3).loc["backprop"]
        assert 0 < backprop["t_low"] < 0.1
        assert 1.0 == backprop["t"] < backprop["t_high"]

    def test_a_ratio_holds_both_brackets_and_the_reference_is_1_times_itself(self, tmp_path):
        table = trained(tmp_path, [FINE] * 3)
        forward = table.loc["forward"]
        for name, least, most in (("t_ratio", 2.2 / 1.0, 4.0 / 0.1), ("n_ratio", 11 / 10, 20 / 1)):
            assert 0 < forward[f"{name}_low"] < least
            assert most < forward[f"{name}_high"] < math.inf
        assert list(table.loc["backprop", ["t_ratio_low", "t_ratio", "t_ratio_high"]]) == [1.0, 1.0, 1.0]


HELD = [0.9, 0.9, 0.9, 0.9]  # from the start on


@pytest.mark.parametrize(
    ("backprop", "forward"), [(HELD, HELD), (HELD, [3.0, *HELD]), ([3.0, *HELD], HELD), (HELD, [3.0] * 5)]
)
def test_a_target_that_is_held_before_the_first_step_has_no_ratio(tmp_path, backprop, forward):
    folder = run_folder(tmp_path, [GROUP])
    for seed in (1, 2, 3):
        curve(folder, "backprop", seed, backprop)
        curve(folder, "forward", seed, forward)
    with_targets(folder, "1.0")
    row = summarise(folder).set_index("method").loc["forward"]
    assert all(pd.isna(row[name]) for name in ("t_ratio", "t_ratio_low", "n_ratio"))


def test_final_loss_is_the_mean_over_seeds(tmp_path):
    table = trained(tmp_path, [[3.0, 2.0, 1.0, 1.0, 0.8], [3.0, 2.0, 1.0, 1.0, 0.6]])
    forward = table.loc["forward"]
    assert forward["validation_loss"] == pytest.approx(0.7)
    assert forward["validation_loss_low"] < 0.7 < forward["validation_loss_high"]


def test_a_cross_entropy_is_not_said_to_be_below_zero(tmp_path):
    forward = trained(tmp_path, [[3.0, 0.1], [3.0, 1.9]]).loc["forward"]
    assert (forward["validation_loss_low"], forward["lowest_loss_low"], forward["rise_low"]) == (0, 0, 0)
    assert forward["validation_loss_high"] > 10, "two seeds say little"
    signed = trained(tmp_path / "signed", [[3.0, -0.1], [3.0, 1.9]]).loc["forward"]
    assert signed["validation_loss_low"] < -0.1, "a loss of another kind may be below"


def test_fall_is_how_far_the_lowest_loss_is_below_the_first(tmp_path):
    assert trained(tmp_path, [[3.0, 0.5, 1.0], [3.0, 2.0, 2.5]]).loc["forward", "fall"] == pytest.approx(1.75)
    still = trained(tmp_path / "still", [[3.0, 3.5, 3.0], [2.0, 2.0, 2.0]])
    assert still.loc["forward", "fall"] == 0
    only_begun = trained(tmp_path / "begun", [[3.0], [2.0]])
    assert pd.isna(only_begun.loc["forward", "fall"])


def test_lowest_loss_is_the_mean_of_each_seeds_lowest(tmp_path):
    forward = trained(tmp_path, [[3.0, 0.4, 1.0], [3.0, 2.0, 0.6]]).loc["forward"]
    assert forward["lowest_loss"] == pytest.approx(0.5)
    assert forward["lowest_loss_low"] < 0.5 < forward["lowest_loss_high"]
    assert forward["validation_loss"] == pytest.approx(0.8)


def test_ratios_and_memory_are_the_methods_own_and_the_a_a_row_apart(tmp_path):
    folder = run_folder(tmp_path, [GROUP])
    row = {"group": GROUP.name, "method": "backprop", "reference": "backprop"}
    folder.replace(
        "ratios",
        [
            {**row, "role": "aa", "ratio": 1.01},
            {**row, "role": "method", "ratio": 1.0, "r": 4.0},
            {**row, "role": "method", "method": "forward", "ratio": 1.5, "r": 6.0},
        ],
    )
    for kind, count in (("peak_reserved", 9), ("peak_allocated", 5)):
        folder.append("memory", {"group": GROUP.name, "method": "forward", "kind": kind, "bytes": count})
    table = summarise(folder).set_index("method")
    assert list(table["ratio"]) == [1.0, 1.5]
    assert table.loc["forward", "peak_bytes"] == 5
    assert pd.isna(table.loc["backprop", "peak_bytes"])
    assert list(aa_rows(folder)["ratio"]) == [1.01]


def test_groups_do_not_mix(tmp_path):
    other = tiny_group(depth=2)
    folder = run_folder(tmp_path, [GROUP, other])
    curve(folder, "backprop", 1, FINE)
    table = summarise(folder).set_index(["depth", "method"])
    assert table.loc[(1, "backprop"), "validation_loss"] == 1.0
    assert pd.isna(table.loc[(2, "backprop"), "validation_loss"])


class TestTarget:
    def trained(self, root) -> RunFolder:
        folder = run_folder(root, [GROUP])
        curve(folder, "backprop", 1, [3.0, 0.5, 0.5, 0.5])
        curve(folder, "backprop", 2, [3.0, 0.7, 0.7, 0.7])
        curve(folder, "forward", 1, [3.0, 1.4, 1.4, 1.4])
        return folder

    def curves(self, root) -> pd.DataFrame:
        return self.trained(root).read("curves")

    def rows(self, root, targets: list[Target]) -> list[dict[str, object]]:
        folder = self.trained(root)
        return target_rows(folder.read("curves"), folder.read("jobs"), targets)

    def test_auto_is_what_every_run_reached_and_backprop_best_what_most_of_backprops_did(self, tmp_path):
        curves = self.curves(tmp_path)
        assert targets_of(curves, "auto", "", "backprop") == [Target(loss=1.4)]
        assert targets_of(curves, "backprop-best", "", "backprop") == [Target(loss=0.7)]
        assert targets_of(curves, "auto,0.25,1.4", "0.5,0.9", "backprop") == [
            *(Target(loss=loss) for loss in (1.4, 0.25)),
            *(Target(accuracy=accuracy) for accuracy in (0.5, 0.9)),
        ]

    def test_a_share_is_of_the_references_way_from_chance(self, tmp_path):
        curves = self.curves(tmp_path)
        assert targets_of(curves, "50%,90%", "", "backprop") == [Target(loss=1.85), Target(loss=0.93)]
        assert targets_of(curves, "50%", "", "backprop", chance=2.3) == [Target(loss=1.5)]

    def test_without_the_reference_there_is_no_backprop_best(self, tmp_path):
        assert targets_of(self.curves(tmp_path), "backprop-best", "", "nobody") == []

    def test_a_row_for_each_run(self, tmp_path):
        rows = self.rows(tmp_path, [Target(loss=0.7)])
        assert [(r["method"], r["seed"], r["outcome"]) for r in rows] == [
            ("backprop", 1, "reached"),
            ("backprop", 2, "reached"),
            ("forward", 1, "censored"),
        ]
        assert rows[0]["iterations"] == 10
        assert rows[2]["first_hit_seconds"] is None

    def test_an_accuracy_is_reached_from_below(self, tmp_path):
        (first, *_) = self.rows(tmp_path / "1", [Target(accuracy=0.5)])
        assert (first["outcome"], first["target_loss"], first["target_accuracy"]) == ("reached", None, 0.5)
        assert first["seconds"] == 0.0
        rows = self.rows(tmp_path / "2", [Target(accuracy=0.51)])
        assert {r["outcome"] for r in rows} == {"censored"}

    def test_the_headline_is_the_lowest_loss_that_every_method_reached_with_some_seed(self, tmp_path):
        rows = pd.DataFrame(self.rows(tmp_path / "1", [Target(loss=x) for x in (2.0, 1.4, 0.6, 0.1)]))
        assert set(headline(rows)["target_loss"]) == {1.4}
        without = rows[rows["target_loss"] < 1]
        assert set(headline(without)["target_loss"]) == {0.6}, "one of backprop's seeds reached it"
        alone = pd.DataFrame(self.rows(tmp_path / "3", [Target(loss=x) for x in (0.8, 0.7, 0.6, 0.1)]))
        assert set(headline(alone)["target_loss"]) == {0.7}, "backprop's seeds all reached it"
        assert set(headline(rows[rows["target_loss"] == 0.1])["target_loss"]) == {0.1}
        third = rows[rows["method"] == "forward"].assign(method="spsa", outcome="censored")
        several = pd.concat([rows, third])
        assert set(headline(several)["target_loss"]) == {1.4}, "two of three methods reached it"
        accuracies = pd.DataFrame(self.rows(tmp_path / "2", [Target(accuracy=x) for x in (0.2, 0.5, 0.9)]))
        assert set(headline(accuracies)["target_accuracy"]) == {0.5}

    def test_every_target_has_a_row_for_each_method(self, tmp_path):
        folder = run_folder(tmp_path, [GROUP])
        for seed in (1, 2, 3):
            curve(folder, "backprop", seed, [3.0, 1.0, 1.0, 1.0])
            curve(folder, "forward", seed, FINE if seed > 1 else [3.0] * 5)
        with_targets(folder, "1.0,2.0", "0.5")
        table = by_target(folder).set_index(["target_loss", "method"])
        assert list(table["reached"]) == [3, 2, 3, 2, 3, 3]
        assert table.loc[(1.0, "forward"), "t_median"] == 2.0
        assert table.loc[(1.0, "forward"), "t_resolution"] == 1.0
        assert table.loc[(1.0, "forward"), ["missed", "missed_seconds"]].tolist() == [1, 4.0]
        assert pd.isna(table.loc[(1.0, "backprop"), "missed_seconds"]), "each run reached it"
        assert table.loc[(1.0, "forward"), "t"] == pytest.approx((4 + 2 + 2) / 2)
        assert table.loc[(2.0, "forward"), "t_median"] == 1.0


def test_what_evaluation_cost(tmp_path):
    folder = run_folder(tmp_path, [GROUP])
    curve(folder, "backprop", 1, FINE)
    folder.append(
        "curves",
        {
            "job": f"{GROUP.name}/backprop/train/1",
            "group": GROUP.name,
            "method": "backprop",
            "seed": 1,
            "iteration": 50,
            "train_seconds": 5.0,
            "evaluation_seconds": 0.5,
            "validation_loss": 1.0,
            "validation_accuracy": 0.5,
        },
    )
    row = summarise(folder).set_index("method").loc["backprop"]
    assert (row["evaluation_share"], row["train_seconds"]) == (0.1, 5.0)


def test_the_shortest_run_is_one_that_did_not_diverge(tmp_path):
    folder = run_folder(tmp_path, [GROUP])
    for seed, losses in enumerate(([3.0] * 5, [3.0] * 7, [3.0, math.nan])):
        curve(folder, "forward", seed, losses)
    row = summarise(folder).set_index("method").loc["forward"]
    assert (row["train_seconds"], row["least_train_seconds"]) == (6.0, 4.0)


@pytest.mark.parametrize(
    ("busy", "share", "said"), [(0.79, 0.79, "host"), (0.81, 0.81, "device"), (None, None, "unknown")]
)
def test_a_step_is_bound_by_the_host_where_the_device_is_idle_for_a_fifth_of_it(tmp_path, busy, share, said):
    folder = run_folder(tmp_path, [GROUP])
    folder.append(
        "load", {"group": GROUP.name, "method": "forward", "steps": 9, "seconds": 1.0, "busy_seconds": busy}
    )
    table = summarise(folder).set_index("method")
    assert table.loc["forward", "bound_by"] == said
    assert table.loc["forward", "busy_share"] == share or share is None
    assert pd.isna(table.loc["backprop", "bound_by"]), "not read"


def test_a_floor_is_over_the_references_and_over_what_was_measured(tmp_path):
    folder = run_folder(tmp_path, [GROUP])
    rates = {"flops_per_second": 1e9, "bytes_per_second": 1e9, "bytes": 1, "operations": 1}
    for method, floor, seconds in (("backprop", 0.4, 0.5), ("forward", 0.2, 0.8)):
        own = {"group": GROUP.name, "method": method}
        folder.append("cost", {**own, "flops": 100, **rates, "floor_seconds": floor})
        folder.append("ratios", {**own, "role": "method", "reference": "backprop", "seconds": seconds})
    folder.append("ratios", {"group": GROUP.name, "method": "forward", "role": "slowed", "seconds": 9.0})
    table = summarise(folder).set_index("method")
    assert table.loc["forward", ["floor_ratio", "floor_share", "flops"]].tolist() == [0.5, 0.25, 100]
    assert table.loc["backprop", ["floor_ratio", "floor_share"]].tolist() == [1.0, 0.8]


def test_without_a_floor_there_is_none(tmp_path):
    table = summarise(run_folder(tmp_path, [GROUP])).set_index("method")
    assert table["floor_ratio"].isna().all()
    assert table["floor_share"].isna().all()


def test_the_share_of_runs_that_diverged_is_none_without_runs():
    jobs = pd.DataFrame({"status": ["ok", "diverged", "ok", "ok"]})
    assert _share_of(jobs, "diverged") == 0.25
    assert _share_of(jobs[:0], "diverged") is None


def test_no_table_is_read_twice_for_a_summary(tmp_path, monkeypatch):
    run, read, really = made_up.run(tmp_path, [made_up.group(8)]), [], RunFolder.read
    monkeypatch.setattr(RunFolder, "read", lambda self, table: read.append(table) or really(self, table))
    assert len(summarise(run)) == len(made_up.METHODS)
    assert len(read) == len(set(read)) > 0
