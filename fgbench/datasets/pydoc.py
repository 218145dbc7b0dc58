"""The text of Python's own language reference, which every CPython carries: a language without a download."""

from dataclasses import dataclass
from typing import ClassVar

from fgbench.datasets._text import TextSource
from fgbench.errors import UsageError


@dataclass(frozen=True)
class Pydoc(TextSource):
    """`pydoc_data.topics`, about 465 000 bytes; another Python version has another text, and hash."""

    summary: ClassVar[str] = "the bytes of Python's language reference, carried by CPython: predict the next"
    name: ClassVar[str] = "pydoc"  # type: ignore[assignment]

    def text(self) -> bytes:
        """All topics, by name."""
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise UsageError(
                "--dataset pydoc: this Python carries no pydoc_data; take text:path=FILE."
            ) from error
        return "\n\n".join(topics[topic] for topic in sorted(topics)).encode()


dataset = Pydoc
