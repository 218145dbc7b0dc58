"""Handwritten digits (UCI, 8×8, resized to 28×28): real data without a download, as scikit-learn has it."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch.nn.functional import interpolate

from fgbench.datasets import Dataset, Source, normalised

SPLIT_SEED = 0  # one fixed split for every run and every seed
HELD_OUT = 360  # of 1797


@dataclass(frozen=True)
class Digits(Source):
    """1437 training and 360 validation images of ten classes, in the shape of MNIST's."""

    summary: ClassVar[str] = "1797 real handwritten digits that come with scikit-learn, resized to 1×28×28"

    def load(self, data_dir: Path) -> Dataset:
        """Read the digits from the installed scikit-learn; `data_dir` is not used."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8)
        images = interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
        labels = torch.tensor(labels, dtype=torch.int64)
        train, held = train_test_split(
            range(len(labels)), test_size=HELD_OUT, random_state=SPLIT_SEED, stratify=labels
        )
        return normalised(images[train], labels[train], images[held], labels[held], classes=10)


dataset = Digits
