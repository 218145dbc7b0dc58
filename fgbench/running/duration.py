"""About how long a plan takes, for the progress display and for --dry-run."""

from __future__ import annotations

from fgbench.plan import Config, Plan
from fgbench.running.phases import in_order


def expected_seconds(plan: Plan) -> float:
    """About how long a plan takes, in seconds."""
    return seconds_of(plan.config, len(plan.groups))


def seconds_of(config: Config, groups: int) -> float:
    """About how long a config takes for so many matched groups, in seconds."""
    return groups * sum(phase.seconds(config) for phase in in_order(config))
