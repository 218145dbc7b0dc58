"""Estimate the most time that an experiment of matched jobs takes here, by a few steps of each method."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from fgbench.errors import UsageError
from fgbench.plan import Config, Group, make_plan
from fgbench.running.matched import build_matched
from fgbench.running.phases import in_order
from fgbench.running.phases.quality import SHARE
from fgbench.running.trainees import Protocol, pace
from fgbench.training.pacing import Pace, evaluation_grid
from fgbench.training.search import TYPICAL_RUNS

TRAINING = ("tune", "train", "quality")  # the phases whose time depends on how long a step takes


def seconds_here(config: Config) -> float:
    """About how many seconds a config takes at most; fewer if patience ends runs early.

    Raises:
        UsageError: the config cannot be run.
    """
    plan = make_plan(config)
    config = plan.config
    planned = sum(phase.seconds(config) for phase in in_order(config) if phase.name not in TRAINING)
    with _as_in_a_worker(config.threads):
        return sum(planned + config.train * _training(config, group) for group in plan.groups)


def _training(config: Config, group: Group) -> float:
    matched = build_matched(group, config.data_dir, seed=0)
    protocol = Protocol.of(config, config.evaluate_every)
    paces: list[Pace] = []
    for spec in config.methods:
        with suppress(UsageError):  # a method that cannot train the model takes no time
            paces.append(pace(matched, spec, protocol))
    if not paces:
        return 0.0
    grid = evaluation_grid(paces, config.max_train_seconds, config.evaluate_every)
    runs = config.seeds + (0 if config.learning_rates else TYPICAL_RUNS)
    total = 0.0
    for own in paces:
        steps = min(own.most_steps, config.max_train_seconds / own.step)
        total += steps * own.step + (grid.close_points() + steps / grid.every) * own.evaluation
    return runs * total * (1 + SHARE)


@contextmanager
def _as_in_a_worker(threads: int | None) -> Iterator[None]:
    """Compute on as many threads as the jobs will have, and without what torch announces for later."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
            yield
    finally:
        torch.set_num_threads(before)
