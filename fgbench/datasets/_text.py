"""Texts as datasets: each byte is a token, each window of bytes a sample, and the text's end is held out."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from fgbench.datasets import Dataset, Source
from fgbench.errors import UsageError
from fgbench.specs.options import option

BYTES = 256  # the number of classes
HELD_OUT = 0.1  # the share of the text, at its end, that is held out
WHOLE, HALVES = "all", ("first", "second")


@dataclass(frozen=True)
class TextSource(Source):
    """Loads a text and cuts it into samples."""

    context: int = option(128, "bytes in a sample; each is predicted from those before it", minimum=2)
    part: str = option(
        WHOLE,
        "all of the text, or its first or second half, to pretrain on one and fine-tune on the other",
        choices=(WHOLE, *HALVES),
    )

    of_bytes: ClassVar[bool] = True

    @abstractmethod
    def text(self) -> bytes:
        """The whole text, in UTF-8.

        Raises:
            UsageError: it cannot be read.
        """

    @property
    @abstractmethod
    def name(self) -> str:
        """The dataset's spec, as messages to the user show it."""

    def load(self, data_dir: Path) -> Dataset:
        """Cut the text into windows that do not overlap; `data_dir` is not used."""
        text = self.text()
        if self.part != WHOLE:
            half = len(text) // 2
            text = text[:half] if self.part == HALVES[0] else text[half:]
        held = max(int(len(text) * HELD_OUT), self.context + 1)
        if len(text) - held < self.context + 1:
            raise UsageError(
                f"--dataset {self.name}: {len(text)} bytes are too few for a window of {self.context} to "
                "train on and one to hold out: take a longer text or a smaller context."
            )
        tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        (x, y), (held_x, held_y) = (self._windows(part) for part in (tokens[:-held], tokens[-held:]))
        return Dataset(x, y, held_x, held_y, classes=BYTES, raw=(tokens,))

    def _windows(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """All windows, and the windows that begin one byte later: both [samples, context], int64."""
        both = tokens.long().unfold(0, self.context + 1, self.context)
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()
