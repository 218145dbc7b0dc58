"""Repeats: copies and parts are told from runs of their own, by whatever name or path."""

from __future__ import annotations

import shutil

from fgbench.store.repeats import named, repeats
from fgbench.store.run_folder import RunFolder
from tests.builders import run_folder


def merged(root, *runs: RunFolder) -> RunFolder:
    return run_folder(root, merged=[named(run, run.facts()) for run in runs])


def copied(run: RunFolder, path) -> RunFolder:
    return RunFolder(shutil.copytree(run.path, path))


def test_runs_of_their_own_are_no_repeats(tmp_path):
    assert repeats([run_folder(tmp_path) for _ in range(3)]) == {}


def test_the_parts_of_a_merged_run_stay_if_all_are_there_and_else_it_does(tmp_path):
    one, two, other = (run_folder(tmp_path) for _ in range(3))
    first = merged(tmp_path, one, two)
    second = merged(tmp_path, first, other)
    of_first, of_second = (f"was merged into {run.path} before" for run in (first, second))
    of_parts = "was merged from others that are here"
    assert repeats([one, other, first]) == {0: of_first}
    assert repeats([second, first, two]) == {1: of_second, 2: of_first}
    assert repeats([one, two, first]) == {2: of_parts}
    assert repeats([second, first, two, one, other]) == {0: of_parts, 1: of_parts}


def test_parts_of_a_part_are_known_where_that_is_gone(tmp_path):
    one, two, other = (run_folder(tmp_path) for _ in range(3))
    first = merged(tmp_path, one, two)
    second = merged(tmp_path, merged(tmp_path, first), other)
    shutil.rmtree(first.path)
    of_second = f"was merged into {second.path} before"
    assert repeats([second, two]) == {1: of_second}
    assert repeats([one, second, other]) == {0: of_second, 2: of_second}
    assert repeats([one, second, two, other]) == {1: "was merged from others that are here"}


def test_of_merged_runs_with_a_part_in_common_the_first_one_stays(tmp_path):
    one, two, three, other = (run_folder(tmp_path) for _ in range(4))
    first, second, third = (merged(tmp_path, *own) for own in ((one, two), (two, three), (other, three)))
    in_common = f"has a part in common with {first.path}"
    assert repeats([first, second]) == {1: in_common}
    assert repeats([first, second, third]) == {1: in_common}, "what is left out holds nobody up"
    assert repeats([merged(tmp_path, first), merged(tmp_path, second)]).keys() == {1}


def test_of_equal_runs_the_first_one_stays(tmp_path):
    run = run_folder(tmp_path)
    copy = copied(run, tmp_path / "renamed")
    assert repeats([run, copy]) == {1: f"is a copy of {run.path}"}
    assert list(repeats([run, run, RunFolder(run.path / ".." / run.path.name)])) == [1, 2]
    assert list(repeats([copy, merged(tmp_path, run)])) == [1], "its part is there, if as a copy"


def test_older_runs_without_an_id_are_known_by_their_name_command_and_environment(tmp_path):
    runs = [run_folder(tmp_path) for _ in range(2)]
    for run in runs:
        run._write({key: value for key, value in run.facts().items() if key != "id"})
    assert repeats(runs) == {}
    joined = merged(tmp_path, runs[1])
    assert list(repeats([*runs, joined])) == [2]
    joined._write({key: value for key, value in joined.facts().items() if key != "id"})
    whole = merged(tmp_path, joined, run_folder(tmp_path))
    assert list(repeats([joined, whole])) == [0]
