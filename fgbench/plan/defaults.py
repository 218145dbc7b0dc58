"""Defaults that depend on the device, so that the job is large enough to keep it busy."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fgbench.methods import BEST, PLAIN, find
from fgbench.plan.config import Config


@dataclass(frozen=True)
class Defaults:
    """The batch, the dataset and the execution mode of the main job."""

    batch: int
    dataset: str
    execution: str


CPU = Defaults(64, "digits", PLAIN.execution)
# A step is milliseconds of work in a few hundred launches, or a single one as a graph, and thus not
# launch-bound. `Architecture` has the width that goes with it.
GPU = Defaults(1024, "synthetic:samples=16384", BEST)
# How weights are trained for runs to begin from, on either device.
PRETRAINING_RATE, PRETRAINING_BATCH, PRETRAINING_OPTIMIZER = 2e-3, 8, "adamw"


def settled(config: Config, device: str) -> Config:
    """The config, with everything that it leaves open set to the device's default.

    Args:
        config: a config that may leave open its batch, dataset and execution mode; of the usual methods, it
            keeps those that run in its mode.
        device: torch's name of the device.
    """
    own = GPU if device.startswith("cuda") else CPU
    # The best mode may be a CUDA graph, which cannot change its learning rate; variants under a memory budget
    # are compared in one mode.
    plain = config.lr_decay or config.memory_budget is not None
    execution = config.execution or (PLAIN.execution if plain else own.execution)
    usual = config.methods == Config.methods and not isinstance(config.learning_rate, tuple)
    return replace(
        config,
        methods=tuple(m for m in config.methods if not (usual and find(m).refuses(execution))),
        batch=config.batch or own.batch,
        dataset=config.dataset or own.dataset,
        execution=execution,
    )
