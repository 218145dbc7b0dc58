"""The schema of the CSVs: every file, its columns and their types, units in the names.

Missing is empty, never 0. Types: `str`, `int`, `float` (inf and nan allowed), `bool` (0 or 1).
"""

from enum import StrEnum


class Role(StrEnum):
    """What a timed arm stands for in its matched group; stored in the column `role`."""

    BASE = "base"  # one plain evaluation of the loss, the unit of R
    METHOD = "method"  # a method's step
    AA = "aa"  # the reference's step once more: identical code, so any difference is noise
    ALONE = "alone"  # a step, or the base, with no other arm in its process
    SLOWED = "slowed"  # a method's step once more, made slower by a known share


BASE = "base"  # stands in place of a method's spec in rows of the base

# 1: the first. 2: jobs.optimizer; parts; `forward` is fgbench's own engine. 3: what ADDED says; modes.
# 4: load, with the energy that samples had; what ADDED says; a search chooses by the time to the targets;
# `backprop` takes the fastest update, jobs.update: up to 3 it meant `update=fused`.
# 5: cost. 6: quality, variants; what ADDED says.
SCHEMA_VERSION = 6
OLDEST_READABLE = 2

# Columns that a version added; an older file's rows read as missing there.
ADDED: dict[int, dict[str, tuple[str, ...]]] = {
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
        "update": "str",  # of a method that leaves it open: the one that was found fastest
        "seed": "int",
        "process": "int",
        "learning_rate": "float",  # at the first step
        "evaluate_every": "int",  # steps between evaluations, of tune and train: at most
        "evaluate_first": "int",  # and at the start
        "queries": "int",  # evaluations of the model that a step counts as
        "parameters": "int",
        "weights_hash": "str",
        "batches_hash": "str",
        "contract": "str",
        "node": "str",  # the machine that it ran on
        "cpu": "str",
        "gpu": "str",
        "first_call_seconds": "float",  # of time: the first step, compilation and autotuning with it
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
        "seconds": "float",  # host, per step
        "device_seconds": "float",  # CUDA events, per step; empty on a CPU
        "enqueue_seconds": "float",  # host, per step, until the last of it was queued; empty on a CPU
        # Of the GPU by NVML when all of the block was queued.
        "sm_clock_mhz": "float",
        "power_watts": "float",
        "temperature_celsius": "float",
        "throttle": "str",
        "joules": "float",  # empty: a block is too short for the counter
    },
    # On a GPU: a method alone in a window of seconds, and behind a queued sleep.
    "load": {
        **_GROUP,
        "steps": "int",
        "seconds": "float",  # host, per step
        "busy_seconds": "float",  # device, per step; empty where one does not fit into the launch queue
        # By NVML in the window: median, all that throttled, and energy per step, of windows of 5 s.
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
        "chosen": "bool",  # empty while they are timed
        "detail": "str",
    },
    # A variant of a method under a memory budget: another way to take the same step, measured in one process.
    "variants": {
        **_GROUP,
        "variant": "str",  # its spec
        "peak_bytes": "int",
        "beyond_bytes": "int",  # the parameters
        "seconds": "float",
        "r": "float",
        "fits": "bool",
        "chosen": "bool",  # empty while they are measured
        "detail": "str",  # why it could not be measured
    },
    # A part of a method's step, timed apart in one process; `whole` is the step in the same rounds.
    "parts": {**_GROUP, "process": "int", "part": "str", "seconds": "float"},
    # A method of a group: R, and its ratio to the reference; derived from samples.
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
        "ratio_within_low": "float",  # order-statistic interval over all rounds, processes pooled
        "ratio_within_high": "float",
        "r_alone": "float",  # R of methods timed one after the other, each alone in its processes
        "r_alone_low": "float",
        "r_alone_high": "float",
        "joules": "float",  # per step, from load
        "processes": "int",
        "rounds": "int",  # measured, over all processes
        "stopped": "str",  # precision | time | quick | interrupted
    },
    # A method of a group: peak bytes, by kind.
    "memory": {**_GROUP, "kind": "str", "bytes": "int"},
    # A method of a group, and its base: what an eager step costs, and this machine's rates at its best.
    "cost": {
        **_GROUP,
        "flops": "int",  # of products, convolutions and attention
        "bytes": "int",  # of tensors from outside the step, read and written once each
        "operations": "int",  # started one by one
        "product_bytes": "int",  # that products, convolutions and attention read and write, one by one
        "other_bytes": "int",  # that all other operations do
        "random_numbers": "int",  # drawn
        "flops_per_second": "float",  # of the best matrix product at the run's shapes
        "bytes_per_second": "float",  # of STREAM's triad on as many bytes
        "random_per_second": "float",  # normal random numbers
        "launch_seconds": "float",  # of the host, to start an operation
        "floor_seconds": "float",  # a step takes no less: the roofline
    },
    # What a method's estimates g are worth at some weights, over all parameters or a layer's: means over
    # draws with standard errors, ∇f being the gradient of the draw's own batch and ∇F that of a large one.
    "quality": {
        **_GROUP,
        "weights": "str",  # the method that trained them, or `start`
        "iteration": "int",  # steps that it had taken
        "layer": "str",  # the module, or `all`
        "draws": "int",
        "cosine": "float",  # of g and ∇f
        "cosine_error": "float",
        "cosine_large": "float",  # of g and ∇F
        "cosine_large_error": "float",
        "second_moment": "float",  # ‖g‖²/‖∇f‖²
        "second_moment_error": "float",
        "second_moment_large": "float",  # ‖g‖²/‖∇F‖²
        "second_moment_large_error": "float",
        "along": "float",  # ⟨g, ∇f⟩/‖∇f‖²: 1 of an unbiased estimate
        "along_error": "float",
        "along_large": "float",  # ⟨g, ∇F⟩/‖∇F‖²
        "along_large_error": "float",
        "signal_to_noise": "float",  # along² over the mean square of the rest
        "second_moment_theory": "float",  # where there is a closed form
        "cosine_theory": "float",
        "gradient_norm": "float",  # ‖∇F‖
        "clipped": "float",  # share of directional derivatives; empty where none are
        "non_finite": "float",  # share of directional derivatives, or of estimates where there are none
        "unbiased": "bool",  # whether the mean of its estimates is the gradient, by how it is made
        "status": "str",  # ok | zero gradient | not finite
    },
    # One trial of the learning-rate search.
    "search": {
        **_GROUP,
        "seed": "int",
        "optimizer": "str",
        "learning_rate": "float",
        "full": "bool",  # it had a whole run's seconds
        "train_seconds": "float",
        "iterations": "int",
        "validation_loss": "float",
        "status": "str",
        "targets_reached": "int",  # by a whole run, of the run's targets
        "target_seconds": "float",  # until it had reached them, all of those together
        "chosen": "bool",  # empty while the search goes on
        "chosen_by": "str",  # of the chosen: time to which targets, or loss at the end
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
    },
    # A training job and a target: a loss or an accuracy.
    "targets": {
        "job": "str",
        **_GROUP,
        "seed": "int",
        "target_loss": "float",
        "target_accuracy": "float",
        "outcome": "str",  # reached | censored | diverged
        "seconds": "float",  # until it was reached and held, or until the run ended
        "iterations": "int",
        "resolution_seconds": "float",  # since the evaluation before, where it was reached
        "first_hit_seconds": "float",
        "first_hit_iterations": "int",
    },
}


def headers(table: str) -> list[list[str]]:
    """The headers that a table may have, this version's first."""
    found = [list(TABLES[table])]
    for version in range(SCHEMA_VERSION, OLDEST_READABLE, -1):
        added = ADDED.get(version, {}).get(table, ())
        if added:
            found.append([column for column in found[-1] if column not in added])
    return found
