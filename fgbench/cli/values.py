"""Values of options that are written in more than one way."""

from __future__ import annotations

from fgbench.errors import UsageError


def share(option: str, asked: str) -> float:
    """A share below 1, written 5% or 0.05.

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
