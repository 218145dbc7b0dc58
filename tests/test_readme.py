"""The README's commands are commands that there are, with options that they have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

from fgbench.api import load
from fgbench.cli import app
from fgbench.store.csv_table import read_table

README = Path(__file__).parent.parent / "README.md"
BLOCKS = "".join(re.findall(r"^```\w*\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL))
COMMANDS = sorted(set(re.findall(r"^\s*(fgbench [^\n|]*)$", BLOCKS, re.MULTILINE)))


def said(pattern: str) -> list[str]:
    found = re.search(pattern, README.read_text())
    assert found is not None
    return list(found.groups())


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
    ends = said(r"noise forces theirs down, (\d+) to\s+(\d+)\s+times on MNIST")
    assert [str(round(min(ratios))), str(round(max(ratios)))] == ends


def test_how_much_sooner_backprop_is_at_the_second_papers_protocol_is_what_was_measured():
    found = load(README.parent / "results/reference-fluegel2024-paper")
    ratios = found["t_ratio"][found["method"] != found["reference"]]
    ends = said(r"backprop is (\d+) to\s+(\d+)\s+times sooner")
    assert [str(round(min(ratios))), str(round(max(ratios)))] == ends


def test_how_soon_forward_gradients_are_at_the_first_papers_rate_is_what_was_measured():
    found = load(README.parent / "results/reference-baydin2022-paper/mlp/unit2e-4").set_index("method")
    told = said(r"in ([\d.]+) of its time \(0\.229 there\), rank-one tangents in ([\d.]+)\.")
    ratios = (found["t_ratio"][spec] for spec in ("forward", "forward:structure=rank-one"))
    assert [f"{ratio:.2f}" for ratio in ratios] == told


def test_how_long_a_step_of_the_first_papers_mlp_takes_is_what_was_measured():
    found = load(README.parent / "results/reference-baydin2022-paper/mlp/time").set_index("method")
    ratios = said(r"takes ([\d.]+) of backprop's \(0\.586 there; rank-one tangents ([\d.]+)\)")
    measured = [found["ratio"][spec] for spec in ("forward", "forward:structure=rank-one")]
    assert [f"{float(f'{ratio:.3g}'):g}" for ratio in measured] == ratios


def test_how_many_intervals_of_the_noise_hold_the_truth_is_what_was_counted():
    found = pd.read_csv(README.parent / "results/reference-noise-cpu/noise.csv")
    held = (found["low"] <= found["truth"]) & (found["truth"] <= found["high"])
    assert said(r"(\d+) % of intervals hold the truth") == [f"{held.mean():.0%}"[:-1]]


def test_what_the_gate_said_of_unchanged_and_slowed_code_is_what_was_counted():
    found = pd.read_csv(README.parent / "results/reference-gate-cpu/gate.csv")
    answers = found[found["source"] == "run"].groupby("slowed")["answer"]
    unchanged, slowed = (answers.get_group(share) for share in (0.0, 0.1))
    counts = [len(unchanged), (unchanged == "PASS").sum(), (slowed == "REGRESSED").sum()]
    assert len(slowed) == len(unchanged)
    pattern = r"Of (\d+) checks of unchanged code (\d+) said PASS, and of code slowed by 10 % (\d+) REGRESSED"
    assert said(pattern) == [str(count) for count in counts]


def test_at_equal_memory_forward_modes_step_is_the_shorter_one_as_measured():
    found = load(README.parent / "results/reference-panchal2025/memory", "ratios")
    budgets = load(README.parent / "results/reference-panchal2025/memory", "variants")["run"].unique()
    own = found[found["run"].isin(budgets) & (found["method"] == "forward")]
    assert len(own) == len(budgets) == 2
    said = re.search(r"[Ww]ithin equal memory forward mode's step is the shorter one", README.read_text())
    assert bool(said) == bool((own["ratio_high"] < 1).all())


def test_there_are_some():
    assert len(COMMANDS) > 20
