"""The folder of a reproduction: it goes on at its own scale, and nothing else is taken for one."""

from __future__ import annotations

import json

import pytest

from fgbench.errors import UsageError
from fgbench.reproduction.folder import FACTS, go_on, make
from fgbench.reproduction.suite import Experiment, Suite

SUITE = Suite("a1900", "A paper", "Somebody 1900", [Experiment("nets", "nets", "jobs", {}, [])])


def test_it_is_known_when_nothing_was_measured_yet(tmp_path):
    folder = tmp_path / "new" / "any-name"
    make(folder, "a1900", "smoke")
    assert go_on(folder, SUITE, None) == go_on(folder, SUITE, "smoke") == "smoke"
    with pytest.raises(UsageError, match="it was made at scale smoke; leave --scale out"):
        go_on(folder, SUITE, "paper")


def test_a_stored_one_is_known_by_its_claims_whatever_its_name_is(tmp_path):
    folder = tmp_path / "reference-smoke"
    folder.mkdir()
    (folder / "claims.json").write_text(json.dumps({"paper": "a1900", "scale": "paper", "claims": []}))
    assert go_on(folder, SUITE, None) == "paper"
    assert not (folder / FACTS).exists(), "a stored result stays as it is"


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("20260101-000000-a1900-smoke", "smoke"),
        ("20260101-000000-a1900-full", "full"),
        ("mine-paper", "paper"),
        ("mine", "laptop"),
    ],
)
def test_one_that_says_nothing_is_known_by_its_name_and_says_it_from_then_on(tmp_path, name, scale):
    folder = tmp_path / name
    (folder / "nets").mkdir(parents=True)
    assert go_on(folder, SUITE, None) == scale
    assert json.loads((folder / FACTS).read_text()) == {"paper": "a1900", "scale": scale}


def other_paper(folder):
    make(folder, "b1900", "smoke")


def cut_off(folder):
    folder.mkdir()  # its name says the paper


def ordinary_runs(folder):
    (folder / "20260101-000000-mlp").mkdir(parents=True)


def damaged(folder):
    folder.mkdir()
    (folder / "claims.json").write_text("{")


@pytest.mark.parametrize(
    ("made", "name", "line"),
    [
        (None, "typo", "there is no such folder"),
        (other_paper, "own", "a reproduction of b1900; go on with fgbench reproduce b1900"),
        (cut_off, "20260101-000000-b1900-smoke", "a reproduction of b1900; go on"),
        (ordinary_runs, "results", "this is no reproduction of a1900; name the folder"),
        (damaged, "own", "claims.json is damaged"),
    ],
)
def test_nothing_else_goes_on(tmp_path, made, name, line):
    folder = tmp_path / name
    if made:
        made(folder)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=line):
        go_on(folder, SUITE, None)
    assert sorted(tmp_path.rglob("*")) == before
