"""The default job, repeated: a row for each job says what a reader would ask of it."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from fgbench.experiments import main_job
from tests.charts import made_up


def test_a_row_for_each_job(tmp_path, capsys, monkeypatch):
    def run(folder, options):
        assert options == ["--width", "4"]
        made_up.run(folder, [made_up.group()])
        return 12.34

    told = "a warning of its report"
    monkeypatch.setattr(main_job, "_run", run)
    monkeypatch.setattr(main_job, "doubts", lambda *_tables: [told])
    main_job.main(["--out", str(tmp_path / "out"), "--times", "2", "--", "--width", "4"])
    rows = pd.read_csv(tmp_path / "out" / "main_job.csv")
    assert list(rows["job"]) == [1, 2]
    timed = pd.DataFrame(made_up.ratio_rows(made_up.group(), made_up.METHODS)).query("role == 'method'")
    widths = (timed["ratio_high"] - timed["ratio_low"]) / 2 / timed["ratio"]
    assert rows["half_width"][0] == pytest.approx(widths[timed["method"] != "backprop"].max(), abs=1e-4)
    assert rows["diverged"][0] == 1
    assert list(rows["warnings"]) == [told] * 2
    assert list(rows["seconds"]) == [12.3] * 2
    facts = json.loads((tmp_path / "out" / "main_job.json").read_text())
    assert facts["job"] == [*main_job.JOB, "--width", "4"]
    assert "seconds: " in capsys.readouterr().out
