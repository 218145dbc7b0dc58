"""Options of `fgbench run` that say nothing where what they are about is switched off."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fgbench.errors import UsageError
from fgbench.plan.config import Config

# Not --processes and --max-measure-seconds: where nothing is timed, a method's fastest update still is found.
OF_TIMING = ("precision", "isolated", "slowed")
OF_TRAINING = (
    *("seeds", "target_loss", "target_accuracy", "lr", "lr_decay", "max_train_seconds", "max_iterations"),
    *("max_queries", "evaluate_every", "patience"),
)


def not_default(ctx: Any, given: Collection[str]) -> set[str]:
    """Those of the given options of a command whose value is not their default."""
    usual = {parameter.name: parameter.default for parameter in ctx.command.params}
    return {name for name in given if ctx.params[name] != usual[name]}


def check_used(config: Config, given: Collection[str]) -> None:
    """Check that nothing was given that says nothing in this run.

    Args:
        config: of the run.
        given: the names of the options that were given and are not at their defaults.

    Raises:
        UsageError: an option is about timing where nothing is timed, or about training where nothing is
            trained.
    """
    for on, names, says, only in (
        (config.time, OF_TIMING, "is about timing", "train_only"),
        (config.train, OF_TRAINING, "is about training", "time_only"),
    ):
        if on:
            continue
        if found := [_flag(name) for name in names if name in given]:
            why = (
                f"leave {_flag(only)} out"
                if only in given
                else f"leave it out, as the run that --like names was made with {_flag(only)}"
            )
            raise UsageError(f"{found[0]} {says}: {why}.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
