"""The errors that a person reads: one line that says what is wrong and what would be right."""

LONGEST_DETAIL = 500  # characters of an error that is quoted
OUT_OF_MEMORY_WORDS = (
    *("out of memory", "can't allocate memory", "cannot allocate memory"),
    *("alloc_failed", "allocation_failed"),  # cuBLAS and the like, and cuDNN
)


class UsageError(Exception):
    """Bad input. The command line prints its one line and exits with code 2."""

    def __init__(self, line: str) -> None:
        # What others raise is quoted, and often has several lines.
        super().__init__(" ".join(part.strip() for part in line.splitlines()))


class ResultsError(UsageError):
    """A results folder that is absent, damaged or of another schema version."""


def in_one_line(error: Exception) -> str:
    """An exception's kind and message in one line of limited length, without torch's advice on its logs."""
    message, _, _ = str(error).partition("Set TORCHDYNAMO_VERBOSE=1")
    return " ".join(f"{type(error).__name__}: {message}".split())[:LONGEST_DETAIL]


def says_out_of_memory(detail: str) -> bool:
    """Whether an error's line says that memory ran out, the machine's or a GPU's."""
    return any(words in detail.lower() for words in OUT_OF_MEMORY_WORDS)
