"""Options that say nothing beside others: where what they are about is switched off, a line says so."""

from __future__ import annotations

from typing import Any

from fgbench.errors import UsageError
from fgbench.plan.config import Config

# Not --processes and --max-measure-seconds: where nothing is timed, a method's fastest update still is found.
OF_TIMING = ("precision", "isolated", "slowed")
OF_TRAINING = (
    *("seeds", "target_loss", "target_accuracy", "lr", "lr_decay", "max_train_seconds", "max_iterations"),
    *("max_queries", "evaluate_every", "patience"),
)


def not_default(ctx: Any) -> set[str]:
    """The names of a command's options that were given another value than their default."""
    return {p.name for p in ctx.command.params if p.name in ctx.params and ctx.params[p.name] != p.default}


def check_used(config: Config, given: set[str]) -> None:
    """Check that nothing was given to `fgbench run` that says nothing in this run.

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


def check_used_by_check(given: set[str]) -> None:
    """Check that nothing was given to `fgbench check` that says nothing there.

    Args:
        given: the names of the options that were given and are not at their defaults.

    Raises:
        UsageError: an option is about measuring where nothing is measured, about the self-test where there is
            none, or about verdicts where the self-test prints its own table.
    """
    measured, tested = "run" in given, "self_test" in given
    anew = "is for --run, which measures anew"
    for unused, names, why in (
        (not measured, ("max_measure_seconds",), anew),
        (not measured and not {"self_test", "out"} <= given, ("device",), anew),
        (not measured and not tested, ("out",), "is for --run and --self-test, which store what they find"),
        (not tested, ("slowdown",), "is for --self-test"),
        (tested, ("format", "inconclusive", "allow_mismatch"), "is for verdicts, and --self-test gives none"),
    ):
        for name in names:
            if unused and name in given:
                raise UsageError(f"{_flag(name)} {why}: leave it out.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
