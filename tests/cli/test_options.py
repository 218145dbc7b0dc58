"""Options: their defaults are Config's, their choices those of the code, their errors in plain words."""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

import pytest

from fgbench.charts import FORMATS as CHART_FORMATS
from fgbench.cli.choices import ChartFormat, CheckFormat, ExecutionMode, TableFormat
from fgbench.cli.plain_words import in_plain_words
from fgbench.cli.presets import QUICK
from fgbench.methods import BEST, EXECUTIONS
from fgbench.plan import Config
from fgbench.regression.formats import FORMATS as CHECK_FORMATS
from tests.cli.test_commands import fgbench_says


def test_choices_are_those_of_the_code() -> None:
    assert tuple(ExecutionMode) == (*EXECUTIONS, BEST)
    assert tuple(ChartFormat) == CHART_FORMATS
    assert list(CheckFormat) == list(CHECK_FORMATS)
    assert set(TableFormat) < set(CheckFormat)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ([], {}),
        (["--quick"], QUICK),
        (["--quick", "--seeds", "2"], {**QUICK, "seeds": 2}),
        (["--train-only", "--lr", "0.1"], {"time": False, "learning_rate": 0.1}),
        (["--lr", "0.1,2e-3", "--patience", "10"], {"learning_rate": (0.1, 2e-3), "patience": 10}),
        (["--depth", "2", "--exec", "compile"], {"depths": (2,), "execution": "compile"}),
        (["--dtype", "float64"], {"dtype": "float64"}),
        (["--optimizer", "sgd", "--optimizer", "adam"], {"optimizer": "sgd|adam"}),
    ],
)
def test_what_is_not_asked_for_is_the_config_s_default(
    monkeypatch: pytest.MonkeyPatch, options: list[str], changes: dict[str, Any]
) -> None:
    asked: list[Config] = []
    module = sys.modules["fgbench.cli.run"]  # in the package, the function of that name hides it
    monkeypatch.setattr(module, "_measure", lambda config, *_, **__: asked.append(config))
    assert fgbench_says("run", *options).returncode == 0
    assert asked == [dataclasses.replace(Config(), **changes)]
    assert type(asked[0].dtype) is type(asked[0].execution) is str


def test_the_first_panel_of_run_has_the_six_options_that_people_need_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = fgbench_says("run", "--help").stdout
    panels = re.findall(r"╭─ ([A-Z][a-z ]+) ─", shown)
    names = ["What is compared", "Model and data", "Measuring", "Training", "On a cluster", "Output"]
    assert panels == names
    first = shown[: shown.index("─ Model and data")]
    assert re.findall(r"│ (--\w+)", first) == [
        *("--arch", "--depth", "--method", "--dataset", "--batch", "--quick")
    ]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "Invalid value for '--batch': Input should be greater than or equal to 1",
            "--batch: must be at least 1.",
        ),
        ("Invalid value for '--batch': 0 is not in the range x>=1.", "--batch 0: must be at least 1."),
        (
            "Invalid value for '--depth': Input should be a valid integer, unable to parse string",
            "--depth: must be a whole number.",
        ),
        ("Invalid value for '--depth': 'x' is not a valid integer.", "--depth: must be a whole number."),
        (
            "Invalid value for '--exec' / '--execution': Value error, 'odd' is not one of 'eager', 'best'.",
            "--exec odd: must be one of eager, best.",
        ),
        (
            "Invalid value for '--format': 'xml' is not one of 'table', 'json'.",
            "--format xml: must be one of table, json.",
        ),
        ("No such option: --nope", "No such option: --nope"),
        ("", ""),
    ],
)
def test_what_typer_says_of_a_bad_value_is_said_plainly(message: str, said: str) -> None:
    assert in_plain_words(message) == said


@pytest.mark.parametrize(
    "options",
    [
        ["run", "--batch", "0"],
        ["run", "--seeds", "-1"],
        ["run", "--lr-decay", "-0.5"],
        ["run", "--dtype", "half"],
        ["run", "--max-measure-seconds", "long"],
        ["plot", "--format", "gif"],
        ["check", "--inconclusive", "maybe"],
        ["reproduce", "baydin2022", "--scale", "huge"],
    ],
)
def test_a_value_out_of_its_range_is_one_line_that_names_the_option(options: list[str]) -> None:
    done = fgbench_says(*options)
    assert done.returncode == 2
    assert re.fullmatch(rf"fgbench: {options[-2]}[^\n]*: must be [^\n]*\.\n", done.stderr)
