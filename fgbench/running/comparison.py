"""Compare methods on a caller's own model, in this process or in fresh ones; for `fgbench.compare`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from fgbench import methods
from fgbench.errors import in_one_line
from fgbench.measurement.allocator import keep_freed_pages
from fgbench.methods import Batch, Conditions, Loss
from fgbench.running.arms import Problem, Rounds, Samples, Spent
from fgbench.running.judging import START, WeightsPoint
from fgbench.running.matched import float32_precision
from fgbench.running.messages import Message, Report
from fgbench.running.phases.cost import Counted, measure_cost
from fgbench.running.phases.modes import Mode, find_modes
from fgbench.running.phases.quality import Estimated, TooSlow, measure_quality
from fgbench.running.phases.time import Parts, time_methods
from fgbench.running.task import Task

UPDATES, TIME, WORTH = "updates", "time", "worth"  # what one process is asked to find


@dataclass(frozen=True)
class Comparison:
    """What is compared; its fields are the arguments of `fgbench.compare`, and `over` is the reference."""

    model: nn.Module
    loss: Loss
    batch: Batch
    over: str
    seed: int
    conditions: Conditions

    def leaves_open(self, specs: Sequence[str]) -> bool:
        """Whether the fastest update of some method has to be found first."""
        return any(methods.find(spec).updates(self.conditions) for spec in specs)

    def do(
        self,
        what: str,
        specs: Sequence[str],
        updates: dict[str, str],
        seconds: float,
        process: int,
        report: Report,
    ) -> None:
        """Find the fastest updates (`UPDATES`), time the methods (`TIME`), or judge their steps (`WORTH`)."""
        problem = self._problem(updates)
        if what == UPDATES:
            own = (self.conditions.execution,), (self.conditions.optimizer,)
            find_modes(problem, specs, *own, seconds, report, process)
        elif what == TIME:
            time_methods(problem, tuple(specs), self.over, process, seconds, report)
        else:
            measure_cost(problem, specs, report)
            measure_quality(problem, [WeightsPoint(START, 0, specs, lambda _: self.batch)], seconds, report)

    def _problem(self, updates: dict[str, str]) -> Problem:
        conditions_of = partial(_with_update, self.conditions, updates)
        return Problem(self.model, self.loss, [self.batch], self.seed, conditions_of)


def _with_update(conditions: Conditions, updates: dict[str, str], spec: str) -> Conditions:
    return Conditions(conditions.execution, conditions.optimizer, updates.get(spec, ""))


@dataclass(frozen=True)
class ComparisonRequest(Message):
    """What one process is asked.

    Attributes:
        stored: path of the file that holds model, loss and batch.
        path: the folders in which the caller's modules are looked for.
        threads: the number of CPU threads.
        methods: the specs to compare.
        over: the one of them that ratios are formed over.
        seed: decides the tangents.
        execution, optimizer: the execution mode and optimiser of all methods.
        what: what the process is to find: `UPDATES`, `TIME` or `WORTH`.
        updates: the way to update that was found, for each method that leaves it open.
        seconds: about how long to take.
        number: the number of the process.
    """

    stored: str
    path: tuple[str, ...]
    threads: int
    methods: tuple[str, ...]
    over: str
    seed: int
    execution: str
    optimizer: str
    what: str
    updates: dict[str, str]
    seconds: float
    number: int


@dataclass(frozen=True)
class Unloadable(Message):
    """The process cannot load what the caller stored; it may be of a class in the caller's own script."""

    detail: str


class Compare(Task):
    """A worker's part of `fgbench.compare`: load what the caller stored, and time it as a run's phases do."""

    request = ComparisonRequest
    reports = (Mode, Rounds, Samples, Parts, Spent, Counted, Estimated, TooSlow, Unloadable)

    def work(self, asked: ComparisonRequest, report: Report) -> None:
        """Find updates, time, or judge estimates."""
        keep_freed_pages()
        float32_precision("ieee")
        torch.set_num_threads(asked.threads)
        sys.path += [folder for folder in asked.path if folder not in sys.path]
        try:
            model, loss, batch = torch.load(Path(asked.stored), weights_only=False)
        except Exception as error:  # whatever the caller's classes raise
            report(Unloadable(in_one_line(error)))
            return
        if batch[0].is_cuda:  # a capture waits for the current device, and would take memory of another
            torch.cuda.set_device(batch[0].device)
        conditions = Conditions(asked.execution, asked.optimizer)
        comparison = Comparison(model, loss, batch, asked.over, asked.seed, conditions)
        comparison.do(asked.what, asked.methods, asked.updates, asked.seconds, asked.number, report)
