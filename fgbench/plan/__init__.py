"""What a run is asked to do, and what makes two results comparable.

A `Config` holds what was asked for; `make_plan` checks it and expands it into the matched groups of a `Plan`.
"""

from fgbench.methods import BEST
from fgbench.plan.config import REFERENCE, Config
from fgbench.plan.group import Group
from fgbench.plan.plan import Plan, make_plan

__all__ = ["BEST", "REFERENCE", "Config", "Group", "Plan", "make_plan"]
