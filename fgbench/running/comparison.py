"""A comparison of methods on a model of the caller's own: what is timed, here or in a fresh process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fgbench import methods
from fgbench.measurement.allocator import keep_freed_pages
from fgbench.methods import Batch, Conditions, Loss
from fgbench.running.matched import float32_precision
from fgbench.running.reporting import Report
from fgbench.running.timing import Problem, find_modes, time_methods


@dataclass(frozen=True)
class Comparison:
    """What is compared; arguments as of `fgbench.compare`, `over` being the reference."""

    model: nn.Module
    loss: Loss
    batch: Batch
    over: str
    seed: int
    conditions: Conditions

    def leaves_open(self, specs: Sequence[str]) -> bool:
        """Whether a method's update is to be found first."""
        return any(methods.find(spec).updates(self.conditions) for spec in specs)

    def find_updates(self, specs: Sequence[str], seconds: float, process: int, report: Report) -> None:
        """Time all updates that are open, as a run does."""
        own = (self.conditions.execution,), (self.conditions.optimizer,)
        find_modes(self._problem({}), specs, *own, seconds, report, process)

    def time(
        self, specs: Sequence[str], updates: dict[str, str], seconds: float, process: int, report: Report
    ) -> None:
        """Time all methods, interleaved."""
        time_methods(self._problem(updates), specs, self.over, process, seconds, report)

    def _problem(self, updates: dict[str, str]) -> Problem:
        conditions_of = partial(_with_update, self.conditions, updates)
        return Problem(self.model, self.loss, [self.batch], self.seed, conditions_of)


def _with_update(conditions: Conditions, updates: dict[str, str], spec: str) -> Conditions:
    return Conditions(conditions.execution, conditions.optimizer, updates.get(spec, ""))


def do_comparison(request: dict[str, Any], report: Report) -> None:
    """A worker's part: load what the caller stored, and time it as a run's phases do.

    Reports `unloadable` where this process cannot load it, as a class of the caller's own script.
    """
    keep_freed_pages()
    float32_precision("ieee")
    torch.set_num_threads(request["threads"])
    sys.path += [folder for folder in request["path"] if folder not in sys.path]
    try:
        model, loss, batch = torch.load(Path(request["stored"]), weights_only=False)
    except Exception as error:  # whatever the caller's classes raise
        report("unloadable", detail=" ".join(f"{type(error).__name__}: {error}".split()))
        return
    conditions = Conditions(request["execution"], request["optimizer"])
    comparison = Comparison(model, loss, batch, request["over"], request["seed"], conditions)
    own = request["seconds"], request["number"], report
    if request["updates"] is None:
        comparison.find_updates(request["methods"], *own)
    else:
        comparison.time(request["methods"], request["updates"], *own)
