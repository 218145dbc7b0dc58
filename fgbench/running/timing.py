"""The timing phase: base, every method and an A/A repeat, interleaved, in this process."""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count, cycle, product
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.measurement.clock import Clock, clock_for
from fgbench.measurement.gauge import gauge_for
from fgbench.measurement.interleave import (
    MINIMUM_ROUNDS,
    WARM_UP_WINDOW,
    Arm,
    round_seconds,
    run_rounds,
    warm_up,
    with_block,
    with_fitting_block,
)
from fgbench.measurement.slowed import slowed
from fgbench.methods import PLAIN, Batch, Conditions, Loss, Step
from fgbench.methods.steps.compiling import compiled
from fgbench.methods.steps.oracle import check_base, check_step
from fgbench.running.reporting import Report, failures_reported, in_one_line

BASE, AA, WHOLE, SLOWED = "base", "aa", "whole", "slowed"
BATCHES = 8  # cycled through; gathered before anything is timed
LEARNING_RATE = 1e-6  # small enough to leave the weights where they are
BLOCK_SECONDS = {"cpu": 0.010, "cuda": 0.200}  # far above the clock's resolution and overhead
SHORTEST_BLOCK = 0.020  # of a GPU, seconds: synchronising takes a thousandth of it
TRIAL_BLOCK = 0.005  # from which a GPU's blocks are reckoned
WARM_UP_SHARE = 0.3  # of a process's time, at most
MAXIMUM_ROUNDS = 40
MODES = {"cpu": ("eager", "compile"), "cuda": ("eager", "compile", "cudagraph")}
PARTS_SHARE = 0.1  # of a process's time, for the parts of a step


ConditionsOf = Callable[[str], Conditions]


def plain(spec: str) -> Conditions:
    """The same for every method: eager, plain SGD."""
    return PLAIN


@dataclass(frozen=True)
class Problem:
    """What is timed: a model that is copied for each arm, a loss, and the batches cycled through.

    `conditions_of` gives what a method is prepared with, by its spec or `base`.
    """

    model: nn.Module
    loss: Loss
    batches: Sequence[Batch]
    seed: int
    conditions_of: ConditionsOf = plain

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.batches[0][0].device

    @property
    def clock(self) -> Clock:
        """A clock for it, with the device's gauge."""
        return clock_for(self.device, gauge_for(self.device))


def time_methods(
    problem: Problem,
    specs: Sequence[str],
    reference: str,
    process: int,
    seconds: float,
    report: Report,
    slowed_by: float = 0.0,
) -> None:
    """Check, warm up, then time rounds for about `seconds`; report samples round by round.

    The number of rounds is fixed before the first of them, from the warm-up's times: it does not
    depend on what the rounds show. A method that fails, or whose step is wrong, is reported and
    left out. With `slowed_by` every method but the reference runs once more, slower by that share.

    Raises:
        UsageError: the base fails, or its loss is wrong: there is nothing to put a step over.
    """
    clock = problem.clock
    try:
        arms = [Arm(BASE, base_step(problem))]
        arms[0].step()
    except Exception as error:
        raise UsageError(
            f"the base, which every step is put over, cannot be timed: {in_one_line(error)}"
        ) from error
    steps: dict[str, Step] = {}
    for spec in specs:
        arms += _arms(problem, spec, process, report, steps, repeat=spec == reference)
    if slowed_by:
        for spec in [s for s in steps if s != reference]:
            step = _method_step(problem, spec, process)
            slower = slowed(_over(problem.batches, step), slowed_by, clock, problem.device)
            arms.append(Arm(f"{SLOWED} {spec}", slower, cycle=step.cycle))
    arms = with_blocks(arms, problem, clock, seconds)
    # Seeded by the process too: every process sees other orders.
    run_arms(arms, clock, seconds, random.Random(f"{problem.seed}/{process}"), report)
    time_parts(steps, problem, clock, seconds * PARTS_SHARE, report)
    for arm in arms:
        if not torch.isfinite(arm.step()).all():  # type: ignore[arg-type]
            report("failed", method=arm.name, status="diverged", detail="its loss was not finite when timed")


def time_alone(problem: Problem, spec: str, process: int, seconds: float, report: Report) -> None:
    """Time one method, or the base, with nothing else in the process; reports samples."""
    clock = problem.clock
    with failures_reported(report, spec):
        if spec == BASE:
            arms = [Arm(BASE, base_step(problem))]
            arms[0].step()
        else:
            arms = [_arm(spec, problem, _method_step(problem, spec, process))]
        arms = with_blocks(arms, problem, clock, seconds)
        run_arms(arms, clock, seconds, random.Random(process), report)


def find_modes(
    problem: Problem,
    specs: Sequence[str],
    modes: Sequence[str],
    optimizers: Sequence[str],
    seconds: float,
    report: Report,
    process: int = 0,
) -> None:
    """Time all ways to run each method, and the base, interleaved; report the median of each.

    Those are the execution modes, and the updates of a method that leaves its own open, under each
    optimiser. What there is no choice of is not timed. What a mode does not take is reported with the
    reason, and the method stays in the running. The first of the `process`es also checks each step.
    """
    clock, arms, owners = problem.clock, [], {}
    for spec, conditions in _ways(problem, specs, modes, optimizers):
        way = {"method": spec, **asdict(conditions)}
        trial = replace(problem, conditions_of=partial(_always, conditions))
        name = " ".join(way.values())
        try:
            if spec == BASE:
                arm = Arm(name, base_step(trial))
                arm.step()
            else:
                if process == 0:
                    check_step(
                        methods.find(spec), trial.model, trial.loss, trial.batches[0], trial.seed, conditions
                    )
                arm = _arm(name, trial, _method_step(trial, spec, process))
        except Exception as error:
            report("mode", **way, seconds=None, detail=in_one_line(error))
            continue
        arms.append(arm)
        owners[name] = way
    if arms:
        found = _median_seconds(with_blocks(arms, problem, clock, seconds), clock, seconds, process)
        for name, way in owners.items():
            report("mode", **way, seconds=found[name])


def _ways(
    problem: Problem, specs: Sequence[str], modes: Sequence[str], optimizers: Sequence[str]
) -> Iterator[tuple[str, Conditions]]:
    for spec, mode in product((BASE, *specs), modes):
        own = replace(problem.conditions_of(spec), execution=mode)
        updates = [
            replace(own, optimizer=optimizer, update=update)
            for optimizer in optimizers
            for update in (() if spec == BASE else _updates(spec, replace(own, optimizer=optimizer)))
        ]
        alone = [own] if len(modes) > 1 else []
        yield from ((spec, conditions) for conditions in updates or alone)


def _updates(spec: str, conditions: Conditions) -> tuple[str, ...]:
    return methods.find(spec).updates(conditions)


def _always(conditions: Conditions, spec: str) -> Conditions:
    return conditions


def _median_seconds(arms: Sequence[Arm], clock: Clock, seconds: float, process: int) -> dict[str, float]:
    history: dict[str, list[float]] = defaultdict(list)
    run_arms(arms, clock, seconds, random.Random(process), partial(_remember, history))
    return {name: median(values) for name, values in history.items()}


def _remember(history: dict[str, list[float]], event: str, **facts: Any) -> None:
    for sample in facts.get("samples", ()):
        if not sample["warm_up"]:
            history[sample["arm"]].append(sample["seconds"])


def with_blocks(arms: Sequence[Arm], problem: Problem, clock: Clock, seconds: float) -> list[Arm]:
    """The arms with as many steps in a block as the device's clock needs.

    On a GPU the blocks also fit into the `seconds` of `run_arms`: two windows of warm-up into its share, and
    the least number of rounds into the rest. Finding them takes up to 40 ms an arm, beside that.
    """
    if problem.device.type == "cpu":
        return [with_block(arm, clock, BLOCK_SECONDS["cpu"], minimum=1) for arm in arms]
    warm_up_round = WARM_UP_SHARE * seconds / (2 * WARM_UP_WINDOW)
    share = min(warm_up_round, (1 - WARM_UP_SHARE) * seconds / MINIMUM_ROUNDS) / max(len(arms), 1)
    tried = [with_block(arm, clock, TRIAL_BLOCK, minimum=1) for arm in arms]
    tried = [with_block(arm, clock, TRIAL_BLOCK, arm.steps) for arm in tried]  # the device was idle, and slow
    return [with_fitting_block(arm, clock, share, SHORTEST_BLOCK, BLOCK_SECONDS["cuda"]) for arm in tried]


def base_step(problem: Problem) -> Callable[[], Tensor]:
    """The unit of R: one plain evaluation of the loss under `no_grad`, on a model of its own."""
    model, supply = copy.deepcopy(problem.model), cycle(problem.batches)
    conditions = problem.conditions_of(BASE)
    evaluate = torch.no_grad()(compiled(lambda x, y: problem.loss(model(x), y), conditions))
    if conditions.captured:
        from fgbench.methods.steps.cudagraph import Graph

        evaluate = Graph(evaluate, lambda: list(model.buffers()))
        check_base(evaluate, problem.model, problem.loss, problem.batches, problem.seed)
    return lambda: evaluate(*next(supply))


def time_parts(
    steps: Mapping[str, Step], problem: Problem, clock: Clock, seconds: float, report: Report
) -> None:
    """Time the parts of each method's step apart from each other, and whole steps in the same rounds.

    Reports the median of each, and of the whole, which the parts should add up to: synchronising
    between them costs a GPU its overlap. Where steps differ in kind it is one over means of whole cycles.
    """
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    supply, spent = cycle(problem.batches), 0.0
    for index in count():
        if index >= MINIMUM_ROUNDS and (spent > seconds or index >= MAXIMUM_ROUNDS):
            break
        for name, step in steps.items():
            if index * step.cycle >= 2 * MINIMUM_ROUNDS and spent > seconds:
                continue
            took: dict[str, float] = defaultdict(float)
            for _ in range(step.cycle):
                batch = next(supply)
                whole = {WHOLE: partial(step, batch, LEARNING_RATE)}
                parts = step.parts(batch, LEARNING_RATE)
                if len(parts) == 1:  # a CUDA graph is whole
                    break
                for part, run in (whole | parts if index % 2 else parts | whole).items():
                    took[part] += clock.time(run).seconds
            for part, reading in took.items():
                found[name, part].append(reading / step.cycle)
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
        method, conditions = methods.find(spec), problem.conditions_of(spec)
        start = perf_counter()
        first = _method_step(problem, spec, process)
        report("first_call", method=spec, seconds=perf_counter() - start)
        check_step(method, problem.model, problem.loss, problem.batches[0], problem.seed, conditions)
        prepared = [first, *([_method_step(problem, spec, process)] if repeat else ())]
        steps[spec] = first
        if notes := first.notes():
            report("noted", method=spec, notes=notes)
        return [_arm(n, problem, s) for n, s in zip((spec, AA), prepared, strict=False)]
    return []


def _method_step(problem: Problem, spec: str, process: int) -> Step:
    """Prepared, and called once: what compiles, allocates and chooses kernels has done so."""
    model, seed = copy.deepcopy(problem.model), problem.seed * 1_000_003 + process
    step = methods.prepare(methods.find(spec), model, problem.loss, seed, problem.conditions_of(spec))
    step(problem.batches[0], LEARNING_RATE)
    if problem.device.type == "cuda":
        torch.cuda.synchronize(problem.device)
    return step


def _arm(name: str, problem: Problem, step: Step) -> Arm:
    return Arm(name, _over(problem.batches, step), cycle=step.cycle)


def _over(batches: Sequence[Batch], step: Step) -> Callable[[], Tensor]:
    supply = cycle(batches)
    return lambda: step(next(supply), LEARNING_RATE)


def run_arms(arms: Sequence[Arm], clock: Clock, seconds: float, rng: random.Random, report: Report) -> None:
    """Warm up, then time rounds for about `seconds`, warm-up included; report samples and what it cost."""
    last = spent = 0.0
    for samples in warm_up(arms, clock, rng, WARM_UP_SHARE * seconds):
        report("samples", samples=[vars(s) for s in samples])
        last = round_seconds(samples)
        spent += last
    rounds = int((seconds - spent) / last)
    rounds = min(max(rounds, MINIMUM_ROUNDS), MAXIMUM_ROUNDS) // 2 * 2  # mirrored rounds come in pairs
    report("rounds", rounds=rounds)
    start, timed, working = perf_counter(), 0.0, 0.0
    for samples in run_rounds(arms, clock, rounds, rng):
        report("samples", samples=[vars(s) for s in samples])
        timed += sum(s.seconds * s.steps for s in samples)
        working += round_seconds(samples)
    wall = perf_counter() - start
    report("spent", wall=wall, timed=timed, lead_in=working - timed, harness=wall - working)
