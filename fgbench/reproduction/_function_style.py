"""How charts mark a paper's value beside the one measured here."""

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
FLOOR = 1e-16  # the lowest value on a logarithmic axis: what is below it is rounding
