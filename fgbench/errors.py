"""The errors that a person reads: one line that says what is wrong and what would be right."""

LONGEST_DETAIL = 500  # characters of an error that is quoted


class UsageError(Exception):
    """Bad input. The command line prints its one line and exits with code 2."""

    def __init__(self, line: str) -> None:
        # What others raise is quoted, and often has several lines.
        super().__init__(" ".join(part.strip() for part in line.splitlines()))


class ResultsError(UsageError):
    """A results folder that is absent, damaged or of another schema version."""


def in_one_line(error: Exception) -> str:
    """An exception's kind and message in one line of limited length."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_DETAIL]
