"""Options that have a choice: enums of what there is to choose from, which need no heavy import."""

from __future__ import annotations

from enum import StrEnum


class ExecutionMode(StrEnum):
    """How every step of a matched group is executed."""

    EAGER = "eager"
    COMPILE = "compile"
    CUDAGRAPH = "cudagraph"
    BEST = "best"


class ChartFormat(StrEnum):
    """What `fgbench plot` writes."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


class TableFormat(StrEnum):
    """How `fgbench compare` and `fgbench history` print what they find."""

    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"


class CheckFormat(StrEnum):
    """How `fgbench check` prints its verdicts."""

    TABLE = "table"
    MARKDOWN = "markdown"
    JUNIT = "junit"
    GITHUB = "github"
    JSON = "json"


class Inconclusive(StrEnum):
    """Whether a check passes where it cannot tell."""

    PASS = "pass"
    FAIL = "fail"


class Where(StrEnum):
    """What tasks are handed to."""

    LOCAL = "local"
    SLURM = "slurm"


class Keep(StrEnum):
    """What `fgbench merge` keeps of processes that are in several runs."""

    ALL = "all"
    LAST = "last"
