"""About how long a plan takes: for the time left, and for who wants to know before."""

from __future__ import annotations

from fgbench.plan import Config, Plan
from fgbench.running.phases import in_order


def expected_seconds(plan: Plan) -> float:
    """About how long a plan takes."""
    return seconds_of(plan.config, len(plan.groups))


def seconds_of(config: Config, groups: int) -> float:
    """About how long a config takes for so many matched groups."""
    return groups * sum(phase.seconds(config) for phase in in_order(config))
