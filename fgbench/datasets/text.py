"""A text of the user's own, from a file in UTF-8."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fgbench.datasets._text import TextSource
from fgbench.errors import UsageError
from fgbench.specs.options import option


@dataclass(frozen=True)
class Text(TextSource):
    """The bytes of one file."""

    path: str = option("", "the file, as in text:path=book.txt")

    summary: ClassVar[str] = "a text file of your own, text:path=FILE; each next byte is predicted"

    @property
    def name(self) -> str:
        """The dataset's spec, which names the file."""
        return f"text:path={self.path}"

    def text(self) -> bytes:
        """The whole file."""
        if not self.path:
            raise UsageError("--dataset text: name a file, as in text:path=book.txt.")
        try:
            text = Path(self.path).expanduser().read_bytes()
            text.decode()
        except OSError as error:
            raise UsageError(f"--dataset {self.name}: cannot be read ({error.strerror}).") from error
        except UnicodeDecodeError as error:
            raise UsageError(
                f"--dataset {self.name}: is not UTF-8, byte {error.start} cannot be decoded."
            ) from error
        return text


dataset = Text
