"""Runs that begin from stored ones: the run is named by its folder, or by one that holds it alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgbench.cli import stored
from fgbench.cli.stored import LISTED, like, the_run
from fgbench.cluster.run import units_of
from fgbench.errors import ResultsError, UsageError
from fgbench.plan import Config, make_plan
from fgbench.running.start import environment_for, new_run
from fgbench.store.run_folder import find_runs
from tests.builders import config, run_folder
from tests.cli.test_commands import fgbench_says
from tests.cli.test_run import SMALL, refused


@pytest.fixture
def main(tmp_path: Path) -> Path:
    run_folder(tmp_path / "main")
    return tmp_path / "main"


def test_a_folder_that_holds_one_run_stands_for_it(main: Path) -> None:
    (run,) = main.iterdir()
    assert the_run("--resume", main).path == the_run("--resume", run).path == run
    assert like(main, Config(seeds=9), {"seeds"}).seeds == 9
    done = fgbench_says("run", "--dry-run", "--like", str(main), *SMALL)
    assert done.returncode == 0, done.stderr


def test_of_several_runs_none_is_guessed_and_they_are_listed(main: Path) -> None:
    (run,) = main.iterdir()
    for number in range(LISTED):
        run_folder(main / str(number))
    with pytest.raises(UsageError, match=f"--like {main}: it holds {LISTED + 1} runs, name one: ") as several:
        the_run("--like", main)
    assert str(several.value).endswith(" and 1 more.")
    assert str(several.value).count("-test") == LISTED
    assert the_run("--like", run).path == run
    assert "it holds 6 runs, name one" in refused("--resume", str(main))


def test_where_there_is_no_run_a_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="holds no run"):
        the_run("--resume", tmp_path)
    with pytest.raises(ResultsError, match="there is no such folder"):
        the_run("--resume", tmp_path / "absent")


def test_what_resume_takes_is_what_its_line_says(main: Path) -> None:
    line = refused("--resume", str(main), "--width", "9")
    assert "give no others than --seeds, to add some, --slurm, --json, --verbose or --dry-run" in line


def test_seeds_can_only_be_added_and_only_to_a_run_that_trains(tmp_path: Path) -> None:
    run, _ = new_run(make_plan(config(seeds=3)), tmp_path)
    again = fgbench_says("run", "--resume", str(run.path), "--seeds", "3", "--dry-run")
    assert again.returncode == 0, "the same command goes on with a run that was interrupted"
    run.note(status="done")
    for number in ("2", "3"):
        line = refused("--resume", str(run.path), "--seeds", number)
        assert f"--seeds {number}: {run.path} has 3 already; give more to add to them" in line
    done = fgbench_says("run", "--resume", str(run.path), "--seeds", "4", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert run.facts()["config"]["seeds"] == 3, "a dry run adds none"
    run.note(config={**run.facts()["config"], "train": False})
    assert "was made with --time-only and trains nothing" in refused(
        "--resume", str(run.path), "--seeds", "4"
    )


def test_seeds_added_to_a_run_on_a_cluster_are_units_of_it(tmp_path: Path, monkeypatch) -> None:
    def planned(config, cluster, _out):
        plan = make_plan(config)
        cluster |= {"name": "another", "units": units_of(plan)}
        return plan, environment_for(plan)

    monkeypatch.setattr(stored, "planned", planned)
    first = {"on": "local", "options": {}, "setup": [], "name": "first", "units": {}}
    run, _ = new_run(make_plan(config(seeds=2)), tmp_path, cluster=first)
    plan, _, cluster = stored.resumed(run, stored.with_more_seeds(run, config(seeds=2), 4))
    assert plan.config.seeds == cluster["units"]["train"][0] == 4
    assert cluster["name"] == "first", "its jobs are found by that"


def test_a_dry_run_of_a_resume_sends_no_task_to_the_cluster(main: Path, monkeypatch) -> None:
    def sent(*_arguments: object) -> None:
        raise AssertionError("a node is asked")

    monkeypatch.setattr("fgbench.cluster.survey.survey", sent)
    (run,) = find_runs(main)
    run.note(cluster={"on": "slurm", "options": {}, "setup": []})
    done = fgbench_says("run", "--resume", str(main), "--dry-run", "--slurm", "time=60")
    assert done.returncode == 0, done.stderr
    assert "Nothing was measured or written" in done.stdout
    assert "--slurm time" in refused("--resume", str(main), "--dry-run", "--slurm", "time")
