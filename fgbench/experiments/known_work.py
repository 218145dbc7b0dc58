"""Time arms whose ratio is known: identical steps, and steps that do a known share of more work."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor, nn

from fgbench import architectures, methods
from fgbench.measurement.allocator import keep_freed_pages
from fgbench.measurement.interleave import Arm
from fgbench.methods import Batch
from fgbench.running.arms import LEARNING_RATE, Problem, Spent, timed_rounds, with_blocks
from fgbench.running.messages import Message, Report
from fgbench.running.task import Task

IN_SHAPE, CLASSES, BATCH = (1, 16, 16), 10, 64
BATCHES = 8


@dataclass(frozen=True)
class KnownWorkRequest(Message):
    """A request to one process.

    Attributes:
        arms: by name, how many training steps of a small MLP make up one step of the arm: two arms of 20
            are equal, and one of 21 takes 1.05 times as long as one of 20.
        device: the device, as torch names it.
        threads: the number of CPU threads.
        process: the number of the process.
        seconds: about how long to time.
    """

    arms: dict[str, int]
    device: str
    threads: int
    process: int
    seconds: float


@dataclass(frozen=True)
class RoundTimed(Message):
    """How many seconds a step of each arm took in one measured round."""

    seconds: dict[str, float]


class KnownWork(Task):
    """Time arms whose steps repeat the same work a different number of times."""

    request = KnownWorkRequest
    reports = (RoundTimed, Spent)

    def work(self, asked: KnownWorkRequest, report: Report) -> None:
        """Build the arms and time them; runs in the worker."""
        keep_freed_pages()
        if asked.device.startswith("cuda"):
            torch.cuda.set_device(asked.device)
        torch.set_num_threads(asked.threads)
        torch.manual_seed(asked.process)
        model = architectures.build("mlp", 2, 128, IN_SHAPE, CLASSES).to(asked.device).train()
        batches = [_batch(asked.device) for _ in range(BATCHES)]
        problem = Problem(model, nn.functional.cross_entropy, batches, asked.process)
        made = [Arm(name, _units(problem, batches, count)) for name, count in asked.arms.items()]
        for arm in made:
            arm.step()
        clock, rng = problem.clock, random.Random(asked.process)
        made = with_blocks(made, problem, clock, asked.seconds)

        def told(event: Message) -> None:
            if isinstance(event, Spent):
                report(event)

        for samples in timed_rounds(made, clock, asked.seconds, rng, told):
            if not samples[0].warm_up:
                report(RoundTimed({sample.arm: sample.seconds for sample in samples}))


def _batch(device: str) -> Batch:
    return torch.randn(BATCH, *IN_SHAPE).to(device), torch.randint(CLASSES, (BATCH,)).to(device)


def _units(problem: Problem, batches: Sequence[Batch], count: int) -> Callable[[], Tensor]:
    method = methods.find("backprop")
    step = methods.prepare(method, copy.deepcopy(problem.model), problem.loss, problem.seed)
    supply = cycle(batches)

    def run() -> Tensor:
        for _ in range(count):
            step(next(supply), LEARNING_RATE)
        return step.value

    return run
