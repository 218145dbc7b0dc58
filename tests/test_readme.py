"""The README's commands are commands that there are, with options that they have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from fgbench.api import load
from fgbench.cli import app
from fgbench.store.csv_table import read_table

README = Path(__file__).parent.parent / "README.md"
BLOCKS = "".join(re.findall(r"^```\w*\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL))
COMMANDS = sorted(set(re.findall(r"^\s*(fgbench [^\n|]*)$", BLOCKS, re.MULTILINE)))


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_exists_with_its_options(line):
    _, name, *arguments = shlex.split(line, comments=True)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands
    known = {option for parameter in commands[name].params for option in parameter.opts}
    given = {a.partition("=")[0] for a in arguments if a.startswith("--")}
    assert given <= known


def test_by_how_much_noise_forces_rates_down_is_what_was_searched():
    ratios = []
    for width in (256, 1024):
        jobs = read_table(README.parent / f"results/reference-mnist-{width}/jobs.csv")
        rates = jobs[jobs["phase"] == "train"].groupby("method")["learning_rate"].first()
        ratios += list(rates["backprop"] / rates.drop("backprop"))
    said = re.search(r"noise forces theirs down, (\d+) to\s+(\d+)\s+times on MNIST", README.read_text())
    assert said is not None
    assert [round(min(ratios)), round(max(ratios))] == [int(end) for end in said.groups()]


def test_how_much_sooner_backprop_is_at_the_second_papers_protocol_is_what_was_measured():
    found = load(README.parent / "results/reference-fluegel2024-paper")
    ratios = found["t_ratio"][found["method"] != found["reference"]]
    said = re.search(r"backprop is (\d+) to\s+(\d+)\s+times sooner", README.read_text())
    assert said is not None
    assert [round(min(ratios)), round(max(ratios))] == [int(end) for end in said.groups()]


def test_how_soon_forward_gradients_are_at_the_first_papers_rate_is_what_was_measured():
    found = load(README.parent / "results/reference-baydin2022-paper/mlp/unit2e-4").set_index("method")
    said = re.search(
        r"in ([\d.]+) of its time \(0\.229 there\), rank-one tangents in ([\d.]+)\.", README.read_text()
    )
    assert said is not None
    ratios = (found["t_ratio"][spec] for spec in ("forward", "forward:structure=rank-one"))
    assert [f"{ratio:.2f}" for ratio in ratios] == list(said.groups())


def test_at_equal_memory_forward_modes_step_is_the_shorter_one_as_measured():
    found = load(README.parent / "results/reference-panchal2025/memory", "ratios")
    budgets = load(README.parent / "results/reference-panchal2025/memory", "variants")["run"].unique()
    own = found[found["run"].isin(budgets) & (found["method"] == "forward")]
    assert len(own) == len(budgets) == 2
    said = re.search(r"[Ww]ithin equal memory forward mode's step is the shorter one", README.read_text())
    assert bool(said) == bool((own["ratio_high"] < 1).all())


def test_there_are_some():
    assert len(COMMANDS) > 20
