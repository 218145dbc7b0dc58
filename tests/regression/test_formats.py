"""The formats: each is what its reader parses, and says the same."""

from __future__ import annotations

import dataclasses
import json
import re
from xml.etree import ElementTree

import pytest

from fgbench.regression.checking import check
from fgbench.regression.formats import FORMATS, summary_line
from tests.regression.test_checking import ENTRY, TOLERANCE, scaled


@pytest.fixture
def verdicts():
    entries = [dataclasses.replace(ENTRY, depth=depth) for depth in (1, 2, 3, 4, 5)]
    now = [scaled(f, c) for f, c in zip((1.0, 0.8, 1.2, 1.05), entries, strict=False)]
    return check(entries, [*now, dataclasses.replace(ENTRY, depth=99)], TOLERANCE)


def test_the_summary_counts_each_answer(verdicts):
    assert summary_line(verdicts) == "1 PASS, 1 IMPROVED, 1 REGRESSED, 1 INCONCLUSIVE, 1 INVALID, 1 NEW"
    assert summary_line([]) == "nothing to check"


def test_every_format_names_every_row(verdicts):
    for name, form in FORMATS.items():
        text = form(verdicts)
        wanted = (3, 4, 5) if name == "github" else (1, 2, 3, 4, 5, 99)
        assert all(f"mlp-d{depth}-" in text or f'"depth": {depth}' in text for depth in wanted), name


def test_junit_is_xml_that_counts_failures_and_errors(verdicts):
    suite = ElementTree.fromstring(FORMATS["junit"](verdicts))
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "6", "failures": "1", "errors": "1", "skipped": "2"}
    (failure,) = suite.iter("failure")
    assert "+20.0%" in str(failure.get("message"))


def test_a_ratio_on_other_data_is_another_case_of_junit():
    entries = [dataclasses.replace(ENTRY, dataset=dataset) for dataset in ("digits", "mnist")]
    suite = ElementTree.fromstring(FORMATS["junit"](check(entries, entries, TOLERANCE)))
    assert len({(case.get("classname"), case.get("name")) for case in suite.iter("testcase")}) == 2


def test_a_change_that_rounds_to_nothing_has_no_sign():
    for factor in (0.9999, 1.0001):
        (verdict,) = check([ENTRY], [scaled(factor)], TOLERANCE)
        for name in ("table", "markdown"):
            text = FORMATS[name]([verdict])
            assert "0.0%" in text
            assert not re.search(r"[+-]0\.0%", text), name


def test_github_gets_an_error_for_what_fails_and_a_warning_for_what_is_not_clear(verdicts):
    lines = FORMATS["github"](verdicts).splitlines()
    assert [line.split(" ")[0].split("::")[1] for line in lines] == ["error", "warning", "error", "notice"]


def test_json_holds_no_number_that_is_none(verdicts):
    result = json.loads(FORMATS["json"](verdicts), parse_constant=lambda name: pytest.fail(name))
    assert [v["answer"] for v in result["verdicts"]][:3] == ["PASS", "IMPROVED", "REGRESSED"]
    assert result["verdicts"][4]["change"] is None


def test_markdown_is_a_table_whose_rows_are_as_wide_as_its_head(verdicts):
    rows = [line for line in FORMATS["markdown"](verdicts).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {8}


def test_the_smallest_regression_that_could_have_been_caught_is_always_there(verdicts):
    for verdict in verdicts[:4]:
        assert f"{verdict.smallest:+.1%}" in FORMATS["markdown"]([verdict])
        assert verdict.smallest > TOLERANCE


def test_the_options_of_a_long_spec_are_not_broken_in_a_word(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    entry = dataclasses.replace(ENTRY, method="forward:tangents=16,structure=activity,combine=projection")
    lines = FORMATS["table"](check([entry], [scaled(1.0, entry)], TOLERANCE)).splitlines()
    assert sum("structure=activity," in line for line in lines) == 1
    assert sum("combine=projection" in line for line in lines) == 1


def test_in_a_terminal_of_usual_width_a_group_s_name_is_whole_and_reasons_are_lines_of_their_own(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (verdict,) = check([ENTRY], [scaled(1.05)], TOLERANCE)
    verdict = dataclasses.replace(verdict, why="longer or more runs would help")
    lines = [line.strip() for line in FORMATS["table"]([verdict]).splitlines()]
    assert any(f"{ENTRY.label.split()[0]} " in line for line in lines if "INCONCLUSIVE" in line)
    assert f"{ENTRY.label}: longer or more runs would help" in lines
