"""The text of Python's language reference: real text that needs no download, as CPython comes with it."""

from dataclasses import dataclass
from typing import ClassVar

from fgbench.datasets._text import TextSource
from fgbench.errors import UsageError


@dataclass(frozen=True)
class Pydoc(TextSource):
    """`pydoc_data.topics`, about 465 000 bytes. The text and its hash differ between Python versions."""

    summary: ClassVar[str] = "Python's language reference, part of CPython; each next byte is predicted"
    name: ClassVar[str] = "pydoc"  # type: ignore[assignment]

    def text(self) -> bytes:
        """All topics, sorted by name."""
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise UsageError(
                "--dataset pydoc: this Python comes without pydoc_data; take text:path=FILE."
            ) from error
        return "\n\n".join(topics[topic] for topic in sorted(topics)).encode()


dataset = Pydoc
