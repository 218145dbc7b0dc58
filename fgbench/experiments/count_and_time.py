"""A model's steps counted and timed in one process, for what the one says of the other."""

from __future__ import annotations

from dataclasses import dataclass

from fgbench.running.arms import Rounds, Samples, Spent
from fgbench.running.matched import build_matched
from fgbench.running.messages import Report
from fgbench.running.phase import OfGroup
from fgbench.running.phases.cost import Counted, measure_cost
from fgbench.running.phases.time import Parts, time_methods
from fgbench.running.task import Task


@dataclass(frozen=True, kw_only=True)
class CountAndTimeRequest(OfGroup):
    """What one process is asked.

    Attributes:
        over: the method that ratios are over.
        seconds: to time for, about.
    """

    over: str
    seconds: float


class CountAndTime(Task):
    """Count a model's steps and measure the machine's rates, then time them against each other."""

    request = CountAndTimeRequest
    reports = (Counted, Rounds, Samples, Parts, Spent)

    def work(self, asked: CountAndTimeRequest, report: Report) -> None:
        """In one process."""
        problem = build_matched(asked.group, asked.data_dir, asked.seed, asked.choices).problem()
        measure_cost(problem, asked.methods, report)
        time_methods(problem, asked.methods, asked.over, 0, asked.seconds, report)
