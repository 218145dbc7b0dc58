"""The repository's results page says what its CSVs say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fgbench.page import write_markdown

RESULTS = Path(__file__).parents[2] / "results"
CHARTS = shutil.ignore_patterns("charts", ".lock")


@pytest.mark.skipif(not RESULTS.is_dir(), reason="the results are in the repository alone")
def test_the_results_page_is_not_stale(tmp_path):
    """Of the published results alone: a run of one's own may lie beside them."""
    for folder in RESULTS.glob("reference-*"):
        shutil.copytree(folder, tmp_path / folder.name, ignore=CHARTS)
    write_markdown(tmp_path, tmp_path / "README.md")
    made, committed = ((folder / "README.md").read_text() for folder in (tmp_path, RESULTS))
    assert made == committed, "write it again: fgbench report results/ --format markdown"
