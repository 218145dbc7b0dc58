"""`fgbench reproduce`: a small suite from its TOML to its table, its charts and its second look."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from fgbench.cli import app
from fgbench.errors import UsageError
from fgbench.reproduction import jobs, loading

TOML = """
title = "A paper"
source = "Somebody 1900"

[[experiments]]
name = "projection"
title = "cosines of projections"
kind = "approximation"

[experiments.all]
ways = ["projection"]
structures = ["gaussian"]
dimensions = [64]
tangents = [16]
draws = 40

[[experiments.claims]]
text = "as theory says"
where = "§1"
mark = "R"
value = 1.0
tolerance = 0.1
figure = "gaussian/projection/n=64/k=16/excess"
test = "near"

[[experiments.claims]]
text = "never above nothing"
where = "§2"
figure = "gaussian/projection/n=64/k=16/cosine"
test = "below"
bound = 0.0
"""


@pytest.fixture
def paper(tmp_path, monkeypatch):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "a1900.toml").write_text(TOML)
    monkeypatch.setattr(loading, "FOLDER", tmp_path / "suites")
    monkeypatch.setenv("FGBENCH_DATA", str(tmp_path))
    loading.names.cache_clear()
    yield "a1900"
    loading.names.cache_clear()


def said(*arguments: str):
    result = CliRunner().invoke(app, ["reproduce", *arguments])
    return " ".join(result.stdout.split()), result.exception


def test_it_ends_with_the_claims_and_measures_nothing_twice(paper, tmp_path):
    text, error = said(paper, "--out", str(tmp_path / "out"))
    assert error is None
    assert "1 reproduced, 1 not reproduced" in text
    (folder,) = (tmp_path / "out").iterdir()
    claims = json.loads((folder / "claims.json").read_text())
    assert (claims["paper"], claims["scale"]) == ("a1900", "laptop")
    assert [c["verdict"] for c in claims["claims"]] == ["reproduced", "not reproduced"]
    assert "| projection | as theory says | 1 (§1) [R] |" in (folder / "claims.md").read_text()
    assert list((folder / "charts" / "projection").glob("claims_*.png"))
    assert ">as theory says</th>" in (folder / "report.html").read_text()
    table = folder / "projection" / "approximation.csv"
    before = table.stat().st_mtime_ns
    _, error = said(paper, "--resume", str(folder))
    assert error is None
    assert table.stat().st_mtime_ns == before


def test_what_was_measured_before_stays_in_the_table(paper, tmp_path):
    second = TOML[TOML.index("[[experiments]]") :].replace('name = "projection"', 'name = "again"')
    (tmp_path / "suites" / "a1900.toml").write_text(TOML + second)
    assert said(paper, "--only", "projection", "--out", str(tmp_path / "out"))[1] is None
    (folder,) = (tmp_path / "out").iterdir()
    assert said(paper, "--only", "again", "--resume", str(folder))[1] is None
    claims = json.loads((folder / "claims.json").read_text())["claims"]
    assert [c["experiment"] for c in claims] == ["projection"] * 2 + ["again"] * 2


RUNS = """
title = "A paper"
source = "Somebody 1900"

[[experiments]]
name = "nets"
title = "nets of two widths"
kind = "jobs"

[experiments.all]
dataset = "digits"
archs = ["mlp"]
depths = [1]
methods = ["backprop", "forward"]
[experiments.all.runs.w8]
width = 8
[experiments.all.runs.w16]
width = 16

[[experiments.claims]]
text = "a wide one is slower"
where = "§1"
figure = "w16/mlp-d1-w16-b64/forward/ratio"
test = "above"
"""


def test_runs_of_an_experiment_are_measured_one_by_one_and_none_twice(paper, tmp_path, monkeypatch):
    (tmp_path / "suites" / "a1900.toml").write_text(RUNS)
    measured: list[list[str]] = []

    def measure(settings, folder, note):
        measured.append(list(settings["runs"]))

    monkeypatch.setattr(jobs, "measure", measure)
    assert said(paper, "--only", "nets/w8", "--out", str(tmp_path / "out"))[1] is None
    (folder,) = (tmp_path / "out").iterdir()
    assert "nothing was measured for it" in (folder / "claims.md").read_text()
    for only in (["nets/w8"], ["nets/w16"], ["nets/w16", "nets/w8"], ["nets"], ["nets/w8"]):
        names = [part for name in only for part in ("--only", name)]
        assert said(paper, *names, "--resume", str(folder))[1] is None
    assert measured == [["w8"], ["w16"], ["w8", "w16"]], "the whole one looks at both, and finds them done"


def test_the_hours_of_a_long_scale_are_said_before_it_begins(paper, tmp_path):
    text, error = said(paper, "--scale", "paper", "--out", str(tmp_path / "out"))
    assert error is None
    assert text.index("projection takes about") < text.index("1 reproduced, 1 not reproduced")
    (folder,) = (tmp_path / "out").iterdir()
    assert "takes about" not in said(paper, "--scale", "paper", "--resume", str(folder))[0], "it is done"


def test_a_run_that_was_stopped_says_how_to_go_on_with_the_same_experiments(paper, tmp_path, monkeypatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["fgbench.cli.reproduce"], "_reproduce", stopped)
    options = ["--only", "projection", "--scale", "paper", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["reproduce", paper, *options])
    (folder,) = (tmp_path / "out").iterdir()
    assert f"reproduce {paper} --only projection --resume {folder}" in result.stderr
    facts = json.loads((folder / "reproduction.json").read_text())
    assert facts == {"paper": paper, "scale": "paper"}, "which says at what scale it goes on"


def test_what_goes_on_has_the_scale_that_it_was_made_at(paper, tmp_path):
    assert said(paper, "--scale", "smoke", "--out", str(tmp_path / "out"))[1] is None
    (folder,) = (tmp_path / "out").iterdir()
    before = (folder / "claims.md").read_text()
    _, error = said(paper, "--scale", "laptop", "--resume", str(folder))
    assert str(error) == f"--resume {folder}: it was made at scale smoke; leave --scale out."
    assert (folder / "claims.md").read_text() == before
    text, error = said(paper, "--resume", str(folder))
    assert (error, "scale smoke" in text) == (None, True)
    assert (folder / "claims.md").read_text() == before


def test_what_is_not_there_is_not_made_to_go_on(paper, tmp_path):
    _, error = said(paper, "--resume", str(tmp_path / "typo"))
    assert isinstance(error, UsageError)
    assert "there is no such folder" in str(error)
    assert not (tmp_path / "typo").exists()


def test_the_list_has_every_experiment_with_its_times(paper):
    text, error = said("--list")
    assert error is None
    assert "projection cosines of projections 2" in text


def test_the_list_has_only_what_is_asked_for(paper, tmp_path):
    own = "[experiments.full.runs.w32]\nwidth = 32\n"
    runs = RUNS[RUNS.index("[[experiments]]") :].replace(
        "[[experiments.claims]]", own + "[[experiments.claims]]"
    )
    (tmp_path / "suites" / "a1900.toml").write_text(TOML + runs)
    text, error = said(paper, "--list", "--only", "nets")
    assert (error, "nets of two widths" in text, "projections" in text) == (None, True, False)
    text, error = said(paper, "--list", "--only", "nets/w8")
    assert error is None
    assert " – " in text, "the scale full has no w8"
    _, error = said(paper, "--list", "--only", "nets/w9")
    assert "--only nets/w9: nets has nets/w" in str(error)
    _, error = said("--list", "--only", "nets")
    assert "name the paper too" in str(error)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ([], "reproduce needs a paper: a1900"),
        (["b1900"], "no paper 'b1900': choose from a1900"),
        (["a1900", "--only", "fig1"], "--only fig1: a1900 has projection"),
        (["a1900", "--only", "projection/a"], "--only projection/a: projection has no parts at the scale"),
        (["a1900", "--out", "/proc/nowhere"], "cannot be written"),
    ],
)
def test_bad_input_is_a_line(paper, arguments, hint):
    _, error = said(*arguments)
    assert isinstance(error, UsageError)
    assert hint in str(error)
