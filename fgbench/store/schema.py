"""The schema of the CSVs: every table with its columns and their types; units are in the columns' names.

A missing value is an empty cell, never 0. Types are `str`, `int`, `bool` (0 or 1), `float`, which is measured
and has nine significant digits, as many as tell float32 numbers apart, and `exact`, a float that was given or
chosen and keeps all its digits. Both may be inf or nan.
"""

from enum import StrEnum

LOCK_FILE = ".lock"  # in a run's folder: whoever writes to the run holds it


class Role(StrEnum):
    """What a timed arm stands for in its matched group; stored in the column `role`."""

    BASE = "base"  # one plain evaluation of the loss, the unit of R
    METHOD = "method"  # a method's step
    AA = "aa"  # the reference's step once more: identical code, so any difference is noise
    ALONE = "alone"  # a step, or the base, with no other arm in its process
    SLOWED = "slowed"  # a method's step once more, made slower by a known share


BASE = "base"  # stands in place of a method's spec in rows of the base
DERIVED = ("ratios", "targets")  # tables that are made from others

# What each version changed. ADDED has the columns that were added to existing tables.
# 1: the first version.
# 2: jobs.optimizer; the table parts; `forward` means fgbench's own engine.
# 3: the table modes.
# 4: the table load, with the energy that was in samples before; the search chooses by the time to the
#    targets; `backprop` means the fastest update (jobs.update) and no longer `update=fused`.
# 5: the table cost.
# 6: the tables quality and variants.
# 7: curves have evaluations past the budget.
SCHEMA_VERSION = 7
OLDEST_READABLE = 2

# Columns that a version added to tables; in older files they read as missing.
ADDED: dict[int, dict[str, tuple[str, ...]]] = {
    7: {"curves": ("past_budget",)},
    6: {
        "jobs": ("node", "cpu", "gpu"),
        "cost": ("product_bytes", "other_bytes", "random_numbers", "random_per_second", "launch_seconds"),
    },
    4: {
        "jobs": ("update",),
        "modes": ("process", "optimizer", "update"),
        "search": ("targets_reached", "target_seconds", "chosen_by"),
    },
    3: {
        "jobs": ("evaluate_every", "evaluate_first", "queries", "first_call_seconds"),
        "samples": (
            "enqueue_seconds",
            "sm_clock_mhz",
            "power_watts",
            "temperature_celsius",
            "throttle",
            "joules",
        ),
        "ratios": ("r_alone", "r_alone_low", "r_alone_high", "joules"),
        "search": ("optimizer",),
        "targets": ("target_accuracy", "resolution_seconds"),
    },
}

_GROUP = {"group": "str", "method": "str"}

TABLES: dict[str, dict[str, str]] = {
    # One job: a method of a matched group in one phase, with one seed.
    "jobs": {
        "job": "str",
        **_GROUP,
        "phase": "str",  # budget | modes | time | alone | load | cost | memory | tune | train | quality
        "arch": "str",
        "dataset": "str",
        "depth": "int",
        "width": "int",
        "batch": "int",
        "dtype": "str",
        "device": "str",
        "threads": "int",
        "execution": "str",
        "optimizer": "str",
        "update": "str",  # the update found fastest, for a method that leaves it open
        "seed": "int",
        "process": "int",
        "learning_rate": "exact",  # at the first step
        "evaluate_every": "int",  # most steps between evaluations, for tune and train
        "evaluate_first": "int",  # fewest steps between evaluations, as at the start
        "queries": "int",  # evaluations of the model that a step counts as
        "parameters": "int",
        "weights_hash": "str",
        "batches_hash": "str",
        "contract": "str",
        "node": "str",  # the machine that it ran on
        "cpu": "str",
        "gpu": "str",
        "first_call_seconds": "float",  # of a method's first step, with compilation and autotuning
        "status": "str",  # ok | diverged | oom | error | interrupted | over budget
        "detail": "str",
    },
    # One timed block.
    "samples": {
        **_GROUP,
        "role": "str",  # base | method | aa | alone | slowed
        "process": "int",
        "round": "int",
        "position": "int",
        "warm_up": "bool",
        "steps": "int",
        "seconds": "float",  # per step, by the host's clock
        "device_seconds": "float",  # per step, by CUDA events; empty on a CPU
        "enqueue_seconds": "float",  # per step, by the host's clock, until all was queued; empty on a CPU
        # The GPU's state, read through NVML when all of the block was queued.
        "sm_clock_mhz": "float",
        "power_watts": "float",
        "temperature_celsius": "float",
        "throttle": "str",
        "joules": "float",  # always empty, as a block is too short for the energy counter
    },
    # A method alone on a GPU, repeated in a window of seconds, and queued behind a sleep.
    "load": {
        **_GROUP,
        "steps": "int",
        "seconds": "float",  # per step, by the host's clock
        "busy_seconds": "float",  # per step, of the device; empty where the launch queue cannot hold a step
        # Read through NVML in the window: medians, all throttle reasons, and energy per step.
        "sm_clock_mhz": "float",
        "power_watts": "float",
        "temperature_celsius": "float",
        "throttle": "str",
        "joules": "float",
    },
    # A way to run a method (execution mode, update), timed in one process to find its fastest.
    "modes": {
        **_GROUP,
        "process": "int",
        "execution": "str",
        "optimizer": "str",
        "update": "str",
        "seconds": "float",
        "chosen": "bool",  # empty while timing goes on
        "detail": "str",
    },
    # A variant of a method (another way to take the same step) under a memory budget, in one process.
    "variants": {
        **_GROUP,
        "variant": "str",  # the variant's spec
        "peak_bytes": "int",
        "beyond_bytes": "int",  # the peak beyond the model's parameters
        "seconds": "float",
        "r": "float",
        "fits": "bool",
        "chosen": "bool",  # empty while measuring goes on
        "detail": "str",  # why it could not be measured
    },
    # A part of a method's step, timed by itself in one process; `whole` is the whole step in the same rounds.
    "parts": {**_GROUP, "process": "int", "part": "str", "seconds": "float"},
    # A method of a group, with R and its ratio to the reference; derived from samples.
    "ratios": {
        **_GROUP,
        "role": "str",
        "reference": "str",
        "seconds": "float",  # per step, median over processes of the process medians
        "r": "float",
        "r_low": "float",
        "r_high": "float",
        "ratio": "float",
        "ratio_low": "float",
        "ratio_high": "float",
        "ratio_within_low": "float",  # order-statistic interval over the rounds of all processes
        "ratio_within_high": "float",
        "r_alone": "float",  # R of the method timed alone in its processes
        "r_alone_low": "float",
        "r_alone_high": "float",
        "joules": "float",  # per step, from load
        "processes": "int",
        "rounds": "int",  # measured rounds of all processes
        "stopped": "str",  # precision | time | quick | interrupted
    },
    # Peak bytes of one kind, of a method of a group.
    "memory": {**_GROUP, "kind": "str", "bytes": "int"},
    # What an eager step costs, of a method or of the base, and this machine's best rates.
    "cost": {
        **_GROUP,
        "flops": "int",  # of products, convolutions and attention
        "bytes": "int",  # of tensors from outside the step, each read and written once
        "operations": "int",  # started one by one
        "product_bytes": "int",  # read and written by products, convolutions and attention
        "other_bytes": "int",  # read and written by all other operations
        "random_numbers": "int",  # how many are drawn
        "flops_per_second": "float",  # of the best product or convolution at the run's shapes
        "bytes_per_second": "float",  # of STREAM's triad on as many bytes
        "random_per_second": "float",  # normal random numbers a second
        "launch_seconds": "float",  # that the host needs to start an operation
        "floor_seconds": "float",  # the least time that a step can take, by the roofline
    },
    # The quality of a method's estimates g at some weights, over all parameters or a layer's: means over
    # draws with standard errors. ∇f is the gradient of the draw's own batch, ∇F that of a large batch.
    "quality": {
        **_GROUP,
        "weights": "str",  # the method that trained the weights, or `start`
        "iteration": "int",  # how many steps it had taken
        "layer": "str",  # the module's name, or `all`
        "draws": "int",
        "cosine": "float",  # between g and ∇f
        "cosine_error": "float",
        "cosine_large": "float",  # between g and ∇F
        "cosine_large_error": "float",
        "second_moment": "float",  # ‖g‖²/‖∇f‖²
        "second_moment_error": "float",
        "second_moment_large": "float",  # ‖g‖²/‖∇F‖²
        "second_moment_large_error": "float",
        "along": "float",  # ⟨g, ∇f⟩/‖∇f‖², which is 1 for an unbiased estimate
        "along_error": "float",
        "along_large": "float",  # ⟨g, ∇F⟩/‖∇F‖²
        "along_large_error": "float",
        "signal_to_noise": "float",  # along² over the second moment less along²
        "second_moment_theory": "float",  # empty where there is no closed form
        "cosine_theory": "float",
        "gradient_norm": "float",  # ‖∇F‖
        "clipped": "float",  # share of directional derivatives; empty where the method clips none
        "non_finite": "float",  # share of directional derivatives, or of estimates if it has no derivatives
        "unbiased": "bool",  # whether the method's estimates have the gradient as their mean
        "status": "str",  # ok | zero gradient | not finite
    },
    # One trial of the learning-rate search.
    "search": {
        **_GROUP,
        "seed": "int",
        "optimizer": "str",
        "learning_rate": "exact",
        "full": "bool",  # whether the trial had the seconds of a measured run
        "train_seconds": "float",
        "iterations": "int",
        "validation_loss": "float",
        "status": "str",
        "targets_reached": "int",  # how many targets a trial with full=1 reached
        "target_seconds": "float",  # the sum of the seconds to these targets
        "chosen": "bool",  # empty while the search goes on
        "chosen_by": "str",  # why it was chosen: time to which targets, or loss at the end
    },
    # One evaluation while training.
    "curves": {
        "job": "str",
        **_GROUP,
        "seed": "int",
        "iteration": "int",
        "train_seconds": "float",
        "evaluation_seconds": "float",
        "train_loss": "float",  # of the last minibatch
        "validation_loss": "float",
        "validation_accuracy": "float",
        "past_budget": "bool",  # whether it only shows if a target was held that the budget sufficed to reach
    },
    # A training job and one target, a loss or an accuracy.
    "targets": {
        "job": "str",
        **_GROUP,
        "seed": "int",
        "target_loss": "exact",
        "target_accuracy": "exact",
        "outcome": "str",  # reached | censored | diverged
        "seconds": "float",  # until it was reached and held, or until the run ended
        "iterations": "int",
        "resolution_seconds": "float",  # since the evaluation before; empty where it was not reached
        "first_hit_seconds": "float",
        "first_hit_iterations": "int",
    },
}


def one_line(text: str) -> str:
    """A text as a cell of type `str` holds it: in one line, with single blanks."""
    return " ".join(text.split())


def headers(table: str) -> list[list[str]]:
    """The headers that a table may have, this version's first."""
    found = [list(TABLES[table])]
    for version in range(SCHEMA_VERSION, OLDEST_READABLE, -1):
        added = ADDED.get(version, {}).get(table, ())
        if added:
            found.append([column for column in found[-1] if column not in added])
    return found
