"""Enums for options that have a choice; they need no heavy import, so that `--help` is fast."""

from __future__ import annotations

from enum import StrEnum


class ExecutionMode(StrEnum):
    """How every step of a matched group is executed."""

    EAGER = "eager"
    COMPILE = "compile"
    CUDAGRAPH = "cudagraph"
    BEST = "best"


class ChartFormat(StrEnum):
    """The formats of charts that `fgbench plot` writes."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


class TableFormat(StrEnum):
    """The formats in which `fgbench compare` and `fgbench history` print what they find."""

    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"


class CheckFormat(StrEnum):
    """The formats in which `fgbench check` prints its verdicts."""

    TABLE = "table"
    MARKDOWN = "markdown"
    JUNIT = "junit"
    GITHUB = "github"
    JSON = "json"


class Inconclusive(StrEnum):
    """Whether a check passes where its answer is INCONCLUSIVE."""

    PASS = "pass"
    FAIL = "fail"


class Where(StrEnum):
    """Where the tasks of a run are handed out."""

    LOCAL = "local"
    SLURM = "slurm"


class Keep(StrEnum):
    """Which processes `fgbench merge` keeps, if several runs measured the same group."""

    ALL = "all"
    LAST = "last"
