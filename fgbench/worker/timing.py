"""The timing phase: base, every method and an A/A repeat, interleaved, in this process."""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle
from statistics import median

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
from fgbench.methods import PLAIN, Batch, Conditions, Loss, Step
from fgbench.methods._compile import compiled
from fgbench.oracle import check_step
from fgbench.worker.reporting import Report, failures_reported

BASE, AA, WHOLE = "base", "aa", "whole"
BATCHES = 8  # cycled through; gathered before anything is timed
LEARNING_RATE = 1e-6  # small enough to leave the weights where they are
BLOCK_SECONDS = {"cpu": 0.010, "cuda": 0.200}  # far above the clock's resolution and overhead
MINIMUM_STEPS = {"cpu": 1, "cuda": 10}
WARM_UP_SHARE = 0.3  # of a process's time, at most
MAXIMUM_ROUNDS = 40
PARTS_SHARE = 0.1  # of a process's time, for the parts of a step


@dataclass(frozen=True)
class Problem:
    """What is timed: a model that is copied for each arm, a loss, and the batches cycled through."""

    model: nn.Module
    loss: Loss
    batches: Sequence[Batch]
    seed: int
    conditions: Conditions = PLAIN


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
    arms = [Arm(BASE, base_step(problem))]
    arms[0].step()
    steps: dict[str, Step] = {}
    for spec in specs:
        arms += _arms(problem, spec, process, report, steps, repeat=spec == reference)
    arms = [with_block(a, clock, BLOCK_SECONDS[device.type], MINIMUM_STEPS[device.type]) for a in arms]
    # Seeded by the process too: every process sees other orders.
    _run(arms, clock, seconds, random.Random(f"{problem.seed}/{process}"), report)
    time_parts(steps, problem, clock, seconds * PARTS_SHARE, report)
    for arm in arms:
        if not torch.isfinite(arm.step()).all():  # type: ignore[arg-type]
            report("failed", method=arm.name, status="diverged", detail="its loss was not finite when timed")


def base_step(problem: Problem) -> Callable[[], Tensor]:
    """The unit of R: one plain evaluation of the loss under `no_grad`, on a model of its own."""
    model, supply = copy.deepcopy(problem.model), cycle(problem.batches)
    evaluate = compiled(lambda x, y: problem.loss(model(x), y), problem.conditions)

    @torch.no_grad()
    def step() -> Tensor:
        return evaluate(*next(supply))

    return step


def time_parts(
    steps: Mapping[str, Step], problem: Problem, clock: Clock, seconds: float, report: Report
) -> None:
    """Time the parts of each method's step apart from each other, and whole steps in the same rounds.

    Reports the median of each, and of the whole, which the parts should add up to: synchronising
    between them costs a GPU its overlap.
    """
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    supply, spent = cycle(problem.batches), 0.0
    for index in count():
        if index >= MINIMUM_ROUNDS and (spent > seconds or index >= MAXIMUM_ROUNDS):
            break
        for name, step in steps.items():
            batch = next(supply)
            whole = {WHOLE: partial(step, batch, LEARNING_RATE)}
            parts = step.parts(batch, LEARNING_RATE)
            for part, run in (whole | parts if index % 2 else parts | whole).items():
                reading = clock.time(run).seconds
                found[name, part].append(reading)
                spent += reading
    rows = [{"method": m, "part": p, "seconds": median(s)} for (m, p), s in found.items()]
    report("parts", parts=rows)


def _arms(
    problem: Problem, spec: str, process: int, report: Report, steps: dict[str, Step], *, repeat: bool
) -> list[Arm]:
    """The arms of a method, checked: itself and, for the reference, its A/A repeat; none if it fails.

    Its step goes into `steps`.
    """
    with failures_reported(report, spec):
        method = methods.find(spec)
        check_step(method, problem.model, problem.loss, problem.batches[0], problem.seed, problem.conditions)
        prepared = [_method_step(problem, method, process) for _ in range(2 if repeat else 1)]
        steps[spec] = prepared[0]
        if notes := prepared[0].notes():
            report("noted", method=spec, notes=notes)
        return [Arm(n, _over(problem.batches, s)) for n, s in zip((spec, AA), prepared, strict=False)]
    return []


def _method_step(problem: Problem, method: methods.Method, process: int) -> Step:
    model, seed = copy.deepcopy(problem.model), problem.seed * 1_000_003 + process
    step = method.prepare(model, problem.loss, seed, problem.conditions)
    step(problem.batches[0], LEARNING_RATE)
    return step


def _over(batches: Sequence[Batch], step: Step) -> Callable[[], Tensor]:
    supply = cycle(batches)
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
