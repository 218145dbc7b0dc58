"""The noise phase: identical steps, and steps with a known share of extra work, against each other."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from itertools import cycle

import torch
from torch import Tensor, nn

from fgbench import architectures, methods
from fgbench.measurement.allocator import keep_freed_pages
from fgbench.measurement.interleave import Arm
from fgbench.methods import Batch
from fgbench.running.reporting import Report
from fgbench.running.timing import LEARNING_RATE, Problem, run_arms, with_blocks

IN_SHAPE, CLASSES, BATCH = (1, 16, 16), 10, 64
BATCHES = 8


def measure_noise(
    arms: dict[str, int], device: str, threads: int, process: int, seconds: float, report: Report
) -> None:
    """Time arms that differ in nothing but how much of the same work is in a step.

    Args:
        arms: by name, how many training steps of a small MLP are one step of the arm: two arms of 20
            are equal, one of 21 takes 1.05 times as long as one of 20.
        device: as torch names it.
        threads: of the CPU.
        process: which of the comparison's fresh processes this is.
        seconds: to time for, about.
        report: gets the samples.
    """
    keep_freed_pages()
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    torch.set_num_threads(threads)
    torch.manual_seed(process)
    model = architectures.build("mlp", 2, 128, IN_SHAPE, CLASSES).to(device).train()
    batches = [
        (torch.randn(BATCH, *IN_SHAPE).to(device), torch.randint(CLASSES, (BATCH,)).to(device))
        for _ in range(BATCHES)
    ]
    problem = Problem(model, nn.functional.cross_entropy, batches, process)
    made = [Arm(name, _units(problem, batches, count)) for name, count in arms.items()]
    for arm in made:
        arm.step()
    clock = problem.clock
    made = with_blocks(made, problem, clock, seconds)
    run_arms(made, clock, seconds, random.Random(process), report)


def _units(problem: Problem, batches: Sequence[Batch], count: int) -> Callable[[], Tensor]:
    method = methods.find("backprop")
    step = methods.prepare(method, copy.deepcopy(problem.model), problem.loss, problem.seed)
    supply = cycle(batches)

    def run() -> Tensor:
        for _ in range(count):
            step(next(supply), LEARNING_RATE)
        return step.value

    return run
