"""MNIST and its like through torchvision, downloaded once."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from fgbench.datasets import Dataset, Source, normalised
from fgbench.errors import UsageError

HELD_OUT = 10_000  # the last of the 60 000 training images; the test images stay untouched


@dataclass(frozen=True)
class MNIST(Source):
    """50 000 training and 10 000 validation images [1, 28, 28] of ten classes."""

    summary: ClassVar[str] = "MNIST by torchvision: 50 000 training, 10 000 validation images"
    torchvision_name: ClassVar[str] = "MNIST"

    def load(self, data_dir: Path) -> Dataset:
        """Read the training images under `data_dir`, downloading them where they are not there."""
        name = self.torchvision_name
        try:
            from torchvision import datasets as torchvision_datasets
        except Exception as error:  # a torchvision built for another torch fails in many ways
            raise UsageError(
                f"{name} needs torchvision, which does not import here ({error}): "
                "install the torchvision that matches torch, or use --dataset digits."
            ) from error
        try:
            raw = getattr(torchvision_datasets, name)(str(data_dir), train=True, download=True)
        except Exception as error:
            raise UsageError(
                f"{name} is not in {data_dir} and could not be downloaded "
                f"({type(error).__name__}): use --dataset digits, which needs no download, "
                "or name the folder that has it with --data-dir or FGBENCH_DATA."
            ) from error
        images = raw.data.to(torch.float32).unsqueeze(1) / 255
        train, held = slice(None, -HELD_OUT), slice(-HELD_OUT, None)
        return normalised(images[train], raw.targets[train], images[held], raw.targets[held], classes=10)


dataset = MNIST
