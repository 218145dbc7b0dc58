"""Datasets that torchvision downloads once, and the fixed split that every run uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from fgbench.datasets import Dataset, Source, normalised
from fgbench.errors import UsageError
from fgbench.optional import torchvision
from fgbench.specs.options import option

HELD_OUT = 10_000  # the last of the training images; the test images stay untouched


@dataclass(frozen=True)
class TorchvisionSource(Source):
    """Loads a dataset of ten classes of images through torchvision.

    Attributes:
        name: the name of its class in torchvision.datasets.
        folder: where it lies in the data folder.
    """

    name: ClassVar[str]
    folder: ClassVar[str]

    pixels: str = option(
        "normalised",
        "normalised: of mean 0 and variance 1 over the training images; unit: in [0, 1]",
        choices=("normalised", "unit"),
    )

    def load(self, data_dir: Path) -> Dataset:
        """Read the training images under `data_dir`, after downloading them if they are missing."""
        known = torchvision("datasets", self.name, "--dataset digits")
        try:
            raw = getattr(known, self.name)(str(data_dir), train=True, download=True)
        except Exception as error:
            raise UsageError(
                f"{self.name} is not in {data_dir} and could not be downloaded "
                f"({type(error).__name__}): use --dataset digits, which needs no download, "
                "or name the folder that has it with --data-dir or FGBENCH_DATA."
            ) from error
        pixels, labels = torch.as_tensor(raw.data), torch.as_tensor(raw.targets)
        # [samples, height, width], or with the colours last.
        pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.movedim(-1, 1).contiguous()
        images = pixels.to(torch.float32) / 255
        train, held = slice(None, -HELD_OUT), slice(-HELD_OUT, None)
        split = images[train], labels[train], images[held], labels[held]
        return Dataset(*split, classes=10) if self.pixels == "unit" else normalised(*split, classes=10)
