"""Values written in more than one way."""

from __future__ import annotations

import pytest

from fgbench.cli.values import share, span
from fgbench.errors import UsageError


@pytest.mark.parametrize(("asked", "value"), [("5%", 0.05), ("0.05", 0.05), ("0", 0.0), ("99.5%", 0.995)])
def test_a_share_is_a_percentage_or_a_number(asked, value):
    assert share("--tolerance", asked) == pytest.approx(value)


@pytest.mark.parametrize("asked", ["", "%", "five", "-1%", "100%", "1", "nan", "5 %%"])
def test_anything_else_is_refused_by_its_option_s_name(asked):
    with pytest.raises(UsageError, match="--tolerance"):
        share("--tolerance", asked)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (5400, "1.5 h"), (90000, "25 h")],
)
def test_a_span_is_in_seconds_minutes_or_hours(seconds, said):
    assert span(seconds) == said
