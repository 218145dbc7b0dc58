"""Values that are written in more than one way: those of options, and how long something takes."""

from __future__ import annotations

from fgbench.errors import UsageError

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9, "B": 1}


def size(option: str, asked: str) -> int | None:
    """The bytes in a size such as 200MiB or 1.5GB; None for an empty text.

    Raises:
        UsageError: it is none.
    """
    if not asked:
        return None
    unit = next((unit for unit in UNITS if asked.endswith(unit)), "")
    try:
        value = float(asked.removesuffix(unit)) * UNITS[unit]
        if not 1 <= value < float("inf"):
            raise ValueError(asked)
    except (KeyError, ValueError):
        raise UsageError(f"{option} {asked}: must be a size, as in 200MiB or 1.5GB.") from None
    return int(value)


def share(option: str, asked: str) -> float:
    """The share, below 1, in a text such as 5% or 0.05.

    Raises:
        UsageError: it is none.
    """
    try:
        value = float(asked.removesuffix("%")) / (100 if asked.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"{option} {asked}: must be a share below 1, as in 5% or 0.05.")
    return value


def span(seconds: float) -> str:
    """How long something takes, in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    return f"{seconds / 60:.0f} min" if hours < 1.5 else f"{hours:.{1 if hours < 10 else 0}f} h"
