"""The errors that a person reads: one line that says what is wrong and what would be right."""


class UsageError(Exception):
    """Bad input. The command line prints its one line and exits with code 2."""

    def __init__(self, line: str) -> None:
        # What others raise is quoted, and often has several lines.
        super().__init__(" ".join(part.strip() for part in line.splitlines()))


class ResultsError(UsageError):
    """A results folder that is absent, damaged or of another schema version."""
