"""Defaults that depend on the device: a job large enough to keep it busy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fgbench.methods import BEST, PLAIN
from fgbench.plan.config import Config


@dataclass(frozen=True)
class Defaults:
    """The batch, the dataset and the execution mode of the main job."""

    batch: int
    dataset: str
    execution: str


CPU = Defaults(64, "digits", PLAIN.execution)
# Milliseconds of work for a few hundred launches, which a graph makes one: not launch-bound. `Architecture`
# has the width that goes with it.
GPU = Defaults(1024, "synthetic:samples=16384", BEST)


def settled(config: Config, device: str) -> Config:
    """The config with what it leaves open at the device's default.

    Args:
        config: which may leave open its batch, its dataset and its execution mode.
        device: as torch names it.
    """
    own = GPU if device.startswith("cuda") else CPU
    # A CUDA graph, which may be the best, holds one learning rate.
    execution = PLAIN.execution if config.lr_decay else own.execution
    return replace(
        config,
        batch=config.batch or own.batch,
        dataset=config.dataset or own.dataset,
        execution=config.execution or execution,
    )
