"""Reword Typer's errors about bad values, so that they read like fgbench's own."""

from __future__ import annotations

import re

# Messages of Typer's own parser, and of click's, which older versions of Typer use.
WORDS = (
    (r"^Invalid value for '(-[\w-]+)'(?: / '[^']*')*: ", r"\1: "),
    (r"^Invalid value for '\[?(\w+)\]?(?:\.\.\.)?': ", r"\1: "),
    (r": '?([^' ]+)'? is not in the range x>=([\d.]+)\.?$", r" \1: must be at least \2"),
    (r": '?([^' ]+)'? is not in the range ([\d.]+)<=x<=([\d.]+)\.?$", r" \1: must be from \2 to \3"),
    (r"Input should be greater than or equal to ", "must be at least "),
    (r"Input should be less than or equal to ", "must be at most "),
    (r"(Input should be|'[^']*' is not) a valid integer.*", "must be a whole number"),
    (r"(Input should be|'[^']*' is not) a valid (number|float).*", "must be a number"),
    (r": (?:Value error, )?'([^']*)' is not one of (.*?)\.?$", r" \1: must be one of \2"),
)


def in_plain_words(message: str) -> str:
    """One sentence with the option, its value if Typer gives it, and what the value must be."""
    line = " ".join(message.split())
    for pattern, words in WORDS:
        line = re.sub(pattern, words, line)
    if "must be one of" in line:
        line = line.replace("'", "")
    return line if line == message or line.endswith(".") else f"{line}."
