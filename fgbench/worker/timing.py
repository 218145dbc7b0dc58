"""The timing phase: base, every method and an A/A repeat, interleaved, in this process."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor, nn

from fgbench import methods
from fgbench.measurement.clock import Clock, clock_for
from fgbench.measurement.interleave import (
    MINIMUM_ROUNDS,
    Arm,
    round_seconds,
    run_rounds,
    warm_up,
    with_block,
)
from fgbench.methods import Batch, Loss
from fgbench.oracle import check_step
from fgbench.worker.reporting import Report, failures_reported

BASE, AA = "base", "aa"
BATCHES = 8  # cycled through; gathered before anything is timed
LEARNING_RATE = 1e-6  # small enough to leave the weights where they are
BLOCK_SECONDS = {"cpu": 0.010, "cuda": 0.200}  # far above the clock's resolution and overhead
MINIMUM_STEPS = {"cpu": 1, "cuda": 10}
WARM_UP_SHARE = 0.3  # of a process's time, at most
MAXIMUM_ROUNDS = 40


@dataclass(frozen=True)
class Problem:
    """What is timed: a model that is copied for each arm, a loss, and the batches cycled through."""

    model: nn.Module
    loss: Loss
    batches: Sequence[Batch]
    seed: int


def time_methods(
    problem: Problem, specs: Sequence[str], reference: str, process: int, seconds: float, report: Report
) -> None:
    """Check, warm up, then time rounds for about `seconds`; report samples round by round.

    The number of rounds is fixed before the first of them, from the warm-up's times: it does not
    depend on what the rounds show. A method that fails, or whose step is wrong, is reported and
    left out.
    """
    device = problem.batches[0][0].device
    clock = clock_for(device)
    arms = [Arm(BASE, base_step(problem.model, problem.loss, problem.batches))]
    arms[0].step()
    for spec in specs:
        arms += _arms(problem, spec, process, report, repeat=spec == reference)
    arms = [with_block(a, clock, BLOCK_SECONDS[device.type], MINIMUM_STEPS[device.type]) for a in arms]
    # Seeded by the process too: every process sees other orders.
    _run(arms, clock, seconds, random.Random(f"{problem.seed}/{process}"), report)
    for arm in arms:
        if not torch.isfinite(arm.step()).all():  # type: ignore[arg-type]
            report("failed", method=arm.name, status="diverged", detail="its loss was not finite when timed")


def base_step(model: nn.Module, loss: Loss, batches: Sequence[Batch]) -> Callable[[], Tensor]:
    """The unit of R: one plain evaluation of the loss under `no_grad`, on a model of its own."""
    model, supply = copy.deepcopy(model), cycle(batches)

    @torch.no_grad()
    def step() -> Tensor:
        x, y = next(supply)
        return loss(model(x), y)

    return step


def _arms(problem: Problem, spec: str, process: int, report: Report, *, repeat: bool) -> list[Arm]:
    """The arms of a method, checked: itself and, for the reference, its A/A repeat; none if it fails."""
    with failures_reported(report, spec):
        method = methods.find(spec)
        check_step(method, problem.model, problem.loss, problem.batches[0], problem.seed)
        names = [spec, AA] if repeat else [spec]
        return [Arm(name, _method_step(problem, method, process)) for name in names]
    return []


def _method_step(problem: Problem, method: methods.Method, process: int) -> Callable[[], Tensor]:
    step = method.prepare(copy.deepcopy(problem.model), problem.loss, problem.seed * 1_000_003 + process)
    step(problem.batches[0], LEARNING_RATE)
    supply = cycle(problem.batches)
    return lambda: step(next(supply), LEARNING_RATE)


def _run(arms: list[Arm], clock: Clock, seconds: float, rng: random.Random, report: Report) -> None:
    last = spent = 0.0
    for samples in warm_up(arms, clock, rng, WARM_UP_SHARE * seconds):
        report("samples", samples=[vars(s) for s in samples])
        last = round_seconds(samples)
        spent += last
    rounds = int((seconds - spent) / last)
    rounds = min(max(rounds, MINIMUM_ROUNDS), MAXIMUM_ROUNDS) // 2 * 2  # mirrored rounds come in pairs
    report("rounds", rounds=rounds)
    for samples in run_rounds(arms, clock, rounds, rng):
        report("samples", samples=[vars(s) for s in samples])
