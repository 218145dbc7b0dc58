"""Synthetic images of any shape, one Gaussian cloud for each class, to time models at any input size."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from fgbench.datasets import Dataset, Source, normalised
from fgbench.errors import UsageError
from fgbench.specs.options import option

SEED = 0
SEPARATION = 4.0  # distance of each class's centre from the origin, in standard deviations


@dataclass(frozen=True)
class Synthetic(Source):
    """Draws the centres of the classes on a sphere, and samples around them with unit variance."""

    shape: str = option("1x28x28", "channels x height x width of a sample")
    classes: int = option(10, "number of classes", minimum=2)
    samples: int = option(4096, "training samples; a quarter as many more are held out", minimum=8)

    summary: ClassVar[str] = "Gaussian clouds of any shape, from a fixed seed"

    def load(self, data_dir: Path) -> Dataset:
        """Draw the data; `data_dir` is not used."""
        shape = self._shape()
        generator = torch.Generator().manual_seed(SEED)
        centres = torch.randn(self.classes, *shape, generator=generator)
        centres *= SEPARATION / centres.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        total = self.samples + self.samples // 4
        labels = torch.randint(self.classes, (total,), generator=generator)
        images = centres[labels] + torch.randn(total, *shape, generator=generator)
        train, held = slice(None, self.samples), slice(self.samples, None)
        return normalised(images[train], labels[train], images[held], labels[held], classes=self.classes)

    def _shape(self) -> tuple[int, ...]:
        try:
            shape = tuple(int(part) for part in self.shape.split("x"))
        except ValueError:
            shape = ()
        if len(shape) != 3 or min(shape) < 1:
            raise UsageError(f"synthetic:shape={self.shape}: must be like 3x32x32.")
        return shape


dataset = Synthetic
