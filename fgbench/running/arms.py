"""Arms: a group's base and methods as steps that can be timed against each other in this process."""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fgbench import methods
from fgbench.measurement.clock import Clock, clock_for
from fgbench.measurement.gauge import gauge_for
from fgbench.measurement.interleave import (
    MINIMUM_ROUNDS,
    WARM_UP_WINDOW,
    Arm,
    K,
    Sample,
    round_seconds,
    run_rounds,
    warm_up,
    with_block,
    with_fitting_block,
)
from fgbench.methods import PLAIN, Batch, Conditions, Loss, Step
from fgbench.methods.steps.compiling import compiled
from fgbench.methods.steps.oracle import check_base
from fgbench.running.messages import Message
from fgbench.store.schema import BASE, Role

BATCHES = 8  # steps cycle through them; they are gathered before anything is timed
LEARNING_RATE = 1e-6  # small enough to leave the weights where they are
BLOCK_SECONDS = {"cpu": 0.010, "cuda": 0.200}  # far above the clock's resolution and overhead
SHORTEST_BLOCK = 0.020  # seconds, on a GPU, where synchronising takes a thousandth of it
TRIAL_BLOCK = 0.005  # seconds of a trial from which the length of a GPU's blocks is found
WARM_UP_SHARE = 0.3  # the warm-up takes at most this share of a process's time
MAXIMUM_ROUNDS = 40

ConditionsOf = Callable[[str], Conditions]


def plain(spec: str) -> Conditions:
    """The same conditions for every method: eager mode and plain SGD."""
    return PLAIN


@dataclass(frozen=True)
class Problem:
    """What is timed: a model, which is copied for each arm, a loss, and batches that steps cycle through.

    `conditions_of` gives what a method is prepared with, by its spec or `base`.
    """

    model: nn.Module
    loss: Loss
    batches: Sequence[Batch]
    seed: int
    conditions_of: ConditionsOf = plain

    @property
    def device(self) -> torch.device:
        """The device that it runs on."""
        return self.batches[0][0].device

    @property
    def clock(self) -> Clock:
        """A clock for its device, with the device's gauge."""
        return clock_for(self.device, gauge_for(self.device))


class ArmKey(NamedTuple):
    """The key of an arm of a group."""

    role: Role
    method: str


@dataclass(frozen=True)
class ArmSample(Message):
    """A row of samples.csv: one timed block; `Sample` explains the fields."""

    role: Role
    method: str
    round: int
    position: int
    warm_up: bool
    steps: int
    seconds: float
    device_seconds: float | None = None
    enqueue_seconds: float | None = None
    sm_clock_mhz: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None
    throttle: str | None = None


@dataclass(frozen=True)
class Samples(Message):
    """All samples of one round."""

    samples: tuple[ArmSample, ...]

    @classmethod
    def of(cls, timed: Sequence[Sample[ArmKey]]) -> Samples:
        """The event for the samples of a round."""
        facts = [{k: v for k, v in vars(sample).items() if k != "arm"} for sample in timed]
        return cls(tuple(ArmSample(*s.arm, **own) for s, own in zip(timed, facts, strict=True)))


@dataclass(frozen=True)
class Rounds(Message):
    """How many rounds will be measured; reported before the first of them."""

    rounds: int


@dataclass(frozen=True)
class Spent(Message):
    """Seconds of all rounds, and the parts of them: timed blocks, steps before blocks, and overhead."""

    wall: float
    timed: float
    lead_in: float
    harness: float


def fresh_copy(model: nn.Module) -> nn.Module:
    """A copy of a model, for a new step; on a GPU the memory of steps that were dropped is freed first."""
    if any(parameter.is_cuda for parameter in model.parameters()):
        free_dropped()
    own = copy.deepcopy(model)
    for module in own.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # cuDNN would gather a copy's weights, which lie apart, in every step
    return own


def free_dropped() -> None:
    """Free what steps that were dropped hold of a GPU's memory.

    Steps refer to themselves, so that only Python's collector frees them, with their copies and graphs. It
    does not know how much memory that is on a GPU, which a learning-rate search would fill.
    """
    gc.collect()


def base_arm(problem: Problem) -> Arm[ArmKey]:
    """The base as an arm; it was called once, so that compiling and first allocations are done."""
    arm = Arm(ArmKey(Role.BASE, BASE), base_step(problem))
    arm.step()
    return arm


def base_step(problem: Problem) -> Callable[[], Tensor]:
    """The unit of R: one plain evaluation of the loss under `no_grad`, on a model of its own."""
    model, supply = fresh_copy(problem.model), cycle(problem.batches)
    conditions = problem.conditions_of(BASE)
    evaluate = torch.no_grad()(compiled(lambda x, y: problem.loss(model(x), y), conditions))
    if conditions.captured:
        from fgbench.methods.steps.cudagraph import Graph

        evaluate = Graph(evaluate, lambda: list(model.buffers()))
        check_base(evaluate, problem.model, problem.loss, problem.batches, problem.seed)
    return lambda: evaluate(*next(supply))


def method_step(problem: Problem, spec: str, process: int) -> Step:
    """A method's step, prepared and called once, as the base was."""
    model, seed = fresh_copy(problem.model), problem.seed * 1_000_003 + process
    step = methods.prepare(methods.find(spec), model, problem.loss, seed, problem.conditions_of(spec))
    step(problem.batches[0], LEARNING_RATE)
    if problem.device.type == "cuda":
        torch.cuda.synchronize(problem.device)
    return step


def over(batches: Sequence[Batch], step: Step) -> Callable[[], Tensor]:
    """A call that takes a step on the next batch, at a rate that hardly changes the weights."""
    supply = cycle(batches)
    return lambda: step(next(supply), LEARNING_RATE)


def step_arm(key: K, problem: Problem, step: Step) -> Arm[K]:
    """A step over the problem's batches as an arm, whose blocks hold whole cycles of steps."""
    return Arm(key, over(problem.batches, step), cycle=step.cycle)


def with_blocks(arms: Sequence[Arm[K]], problem: Problem, clock: Clock, seconds: float) -> list[Arm[K]]:
    """The arms with as many steps in a block as the device's clock needs.

    On a GPU the blocks also fit into the `seconds` of `timed_rounds`: two windows of warm-up into its share,
    and the least number of rounds into the rest. Finding them takes up to 40 ms an arm, beside that.
    """
    if problem.device.type == "cpu":
        return [with_block(arm, clock, BLOCK_SECONDS["cpu"], minimum=1) for arm in arms]
    free_dropped()
    warm_up_round = WARM_UP_SHARE * seconds / (2 * WARM_UP_WINDOW)
    share = min(warm_up_round, (1 - WARM_UP_SHARE) * seconds / MINIMUM_ROUNDS) / max(len(arms), 1)
    tried = [with_block(arm, clock, TRIAL_BLOCK, minimum=1) for arm in arms]
    tried = [
        with_block(arm, clock, TRIAL_BLOCK, arm.steps) for arm in tried
    ]  # the device was idle at first, and slow
    return [with_fitting_block(arm, clock, share, SHORTEST_BLOCK, BLOCK_SECONDS["cuda"]) for arm in tried]


def timed_rounds(
    arms: Sequence[Arm[K]],
    clock: Clock,
    seconds: float,
    rng: random.Random,
    told: Callable[[Rounds | Spent], None] = lambda _event: None,
) -> Iterator[list[Sample[K]]]:
    """Warm up, then time rounds for about `seconds`, warm-up included; gives the samples of each round.

    The number of rounds is fixed before the first of them, from the warm-up's times: it does not depend on
    what the rounds show. That number, and at the end what the rounds took, are `told`.
    """
    last = spent = 0.0
    for samples in warm_up(arms, clock, rng, WARM_UP_SHARE * seconds):
        yield samples
        last = round_seconds(samples)
        spent += last
    rounds = int((seconds - spent) / last)
    rounds = min(max(rounds, MINIMUM_ROUNDS), MAXIMUM_ROUNDS) // 2 * 2  # mirrored rounds come in pairs
    told(Rounds(rounds))
    start, timed, working = perf_counter(), 0.0, 0.0
    for samples in run_rounds(arms, clock, rounds, rng):
        yield samples
        timed += sum(s.seconds * s.steps for s in samples)
        working += round_seconds(samples)
    wall = perf_counter() - start
    told(Spent(wall=wall, timed=timed, lead_in=working - timed, harness=wall - working))
