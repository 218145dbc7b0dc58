"""How a paper's value is marked beside what was measured here."""

from typing import Any

PAPERS = "the paper's"
HOLLOW: dict[str, Any] = {
    "marker": "D",
    "markersize": 7,
    "markerfacecolor": "none",
    "markeredgewidth": 1.4,
    "linestyle": "none",
    "clip_on": False,
    "zorder": 4,
}
FLOOR = 1e-16  # of logarithmic axes: below it is rounding
