"""Format figures for reading: with as many digits as the interval supports, in units that suit them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

NOTHING = "–"
SPEC_WIDTH = 28  # a longer spec is folded


def missing(value: Any) -> bool:
    """Whether there is no figure."""
    return value is None or bool(pd.isna(value))


def number(value: Any, low: Any = None, high: Any = None) -> str:
    """A number with the digits that its interval supports, or three; for an infinite one, its lower bound.

    Digits before the point that are not supported are 0.
    """
    if missing(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if missing(low) else f"> {number(low)}"
    if missing(low) or missing(high) or not high > low:
        return _fixed(value, _decimals(value, digits=3))
    return _fixed(value, _supported_decimals(value, low, high))


def interval(value: Any, low: Any, high: Any) -> str:
    """`[low, high]` with the digits of `number`; empty where there is no interval with two ends."""
    if missing(low) or missing(high) or not high > low or math.isinf(high):
        return ""
    decimals = _supported_decimals(value, low, high)
    return f"[{_end(low, value - low, decimals)}, {_end(high, high - value, decimals)}]"


def json_ready(value: Any) -> Any:
    """The structure with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: json_ready(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def target_words(row: Any) -> str:
    """The target of a row with `target_loss` and `target_accuracy`, in words; empty without either."""
    if not missing(row["target_loss"]):
        return f"validation loss {row['target_loss']:g}"
    return "" if missing(row["target_accuracy"]) else f"validation accuracy {row['target_accuracy']:g}"


def bound_words(reference: str) -> str:
    """In words, what a ratio of times is where a method did not reach the target."""
    return f"T ratio > x: the seconds spent without reaching it, over the upper end of {reference}'s T"


def folded(text: str, width: int = SPEC_WIDTH) -> str:
    """A spec, or a text of one; if its first line is longer, options are on lines of their own."""
    return text if len(text.split("\n")[0]) <= width else re.sub(r",(?=\S)", ",\n  ", text)


def folded_width(texts: Iterable[str], width: int = SPEC_WIDTH) -> int:
    """How wide a column of folded texts is so that no word is broken, or `width` if that is less."""
    return min(max(len(line) for text in texts for line in folded(text, width).split("\n")), width)


def model_words(row: Any) -> str:
    """In words, n, the number of trained parameters, and what is trained from which weights, if unusual."""
    parts = [] if missing(row.get("parameters")) else [f"n = {int(row['parameters']):,}"]
    if row.get("trained", "all") != "all":
        parts.append(f"training {row['trained']}")
    if not missing(row.get("start")) and row["start"]:
        parts.append(f"from {row['start']}")
    return ", ".join(parts)


def device_words(row: Any) -> str:
    """In words, the device's name, and how many threads were used of a CPU."""
    count = row["threads"]
    threads = f", {count} thread{'s' if count > 1 else ''}" if row["device"] == "cpu" else ""
    return f"{row['device_name']}{threads}"


def seconds(value: Any) -> str:
    """A time in a unit that suits it."""
    if missing(value):
        return NOTHING
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def joules(value: Any) -> str:
    """An energy in a unit that suits it."""
    if missing(value):
        return NOTHING
    return f"{value:.3g} J" if value >= 1 else f"{value * 1e3:.3g} mJ"


def size(value: Any) -> str:
    """Bytes in a binary unit that suits them."""
    if missing(value):
        return NOTHING
    for unit, power in (("GiB", 3), ("MiB", 2), ("KiB", 1)):
        if value >= 1024**power:
            return f"{value / 1024**power:.3g} {unit}"
    return f"{int(value)} B"


def _supported_decimals(value: float, low: float, high: float) -> int:
    """Decimal places that show two digits of the shorter side of an interval, which may be asymmetric."""
    return _decimals(min(value - low, high - value), digits=2)


def _decimals(value: float, digits: int) -> int:
    """Decimal places that show `digits` significant digits of the value; below 0, places before the point."""
    if value <= 0 or not math.isfinite(value):
        return 2
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded value: 0.9999 is 1.00
    return min(digits - 1 - exponent, 6)


def _end(value: float, distance: float, decimals: int) -> str:
    """An interval's end, which has the figure's decimals unless it is more than twice as far as the other.

    Then it has two digits of half its distance; and what is not 0 is not shown as 0.
    """
    decimals = min(decimals, _decimals(distance / 2, digits=2))
    if value > 0 and round(value, decimals) == 0:
        decimals = _decimals(value, digits=1)
    return _fixed(value, max(decimals, min(_decimals(abs(value), digits=2), 0)))


def _fixed(value: float, decimals: int) -> str:
    return f"{round(value, decimals):.0f}" if decimals < 0 else f"{value:.{decimals}f}"
