"""Count the operations of a model's steps and time the same steps in one process, to compare the two."""

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
    """A request to one process.

    Attributes:
        over: the method that ratios are formed over.
        seconds: about how long to time.
    """

    over: str
    seconds: float


class CountAndTime(Task):
    """Count the operations of steps and measure the machine's rates, then time the steps interleaved."""

    request = CountAndTimeRequest
    reports = (Counted, Rounds, Samples, Parts, Spent)

    def work(self, asked: CountAndTimeRequest, report: Report) -> None:
        """Build the model, then count and time; runs in the worker."""
        problem = build_matched(asked.group, asked.data_dir, asked.seed, asked.choices).problem()
        measure_cost(problem, asked.methods, report)
        time_methods(problem, asked.methods, asked.over, 0, asked.seconds, report)
