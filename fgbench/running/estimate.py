"""About how long a plan takes: for the time left, and for who wants to know before."""

from __future__ import annotations

from fgbench.measurement.load import WINDOW_SECONDS
from fgbench.plan import BEST, REFERENCE, Config, Plan
from fgbench.specs.options import OR, split_spec
from fgbench.training.search import TYPICAL_RUNS

MODES_SHARE = 0.2  # of the timing budget, on top of it, to find each method's execution mode,
UPDATES_SHARE = 0.1  # or backprop's update alone
CHOOSING_PROCESSES = 3
LOAD_SHARE = 0.5  # likewise, at most, for windows in which each method is alone on a GPU
STARTUP_SECONDS = 6.0  # of a process, and
EVALUATION_SHARE = 0.2  # of training on top of it: for the estimate of time left


def estimated_seconds(plan: Plan) -> float:
    """About how long a plan takes."""
    return seconds_of(plan.config, len(plan.groups))


def choosing_processes(config: Config) -> int:
    """How many find what is fastest."""
    return min(CHOOSING_PROCESSES, config.processes)


def choosing_seconds(config: Config) -> float:
    """That they time for, together."""
    return (MODES_SHARE if config.execution == BEST else UPDATES_SHARE) * config.max_measure_seconds


def load_seconds(config: Config, methods: int) -> float:
    """The window of each of so many methods: what energy needs, or what the budget has."""
    return min(WINDOW_SECONDS, LOAD_SHARE * config.max_measure_seconds / max(methods, 1))


def seconds_of(config: Config, groups: int) -> float:
    """About how long a config takes for so many matched groups."""
    timing = config.processes * STARTUP_SECONDS + config.max_measure_seconds if config.time else 0.0
    if config.time and config.isolated:
        arms = 1 + len(config.methods)
        timing += config.processes * arms * STARTUP_SECONDS + config.max_measure_seconds
    if config.time and config.device.startswith("cuda"):
        timing += len(config.methods) * load_seconds(config, len(config.methods)) + STARTUP_SECONDS
    if config.execution == BEST or any(split_spec(m)[0] == REFERENCE for m in config.methods):
        timing += choosing_seconds(config) + choosing_processes(config) * STARTUP_SECONDS
    optimizers = len(config.optimizer.split(OR))
    searching = TYPICAL_RUNS * optimizers if config.learning_rate is None else 0.0
    run = config.max_train_seconds * (1 + EVALUATION_SHARE)
    training = (searching + config.seeds) * len(config.methods) * run if config.train else 0.0
    return groups * (timing + training)
