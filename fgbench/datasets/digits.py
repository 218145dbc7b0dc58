"""Handwritten digits (UCI, 8×8, resized to 28×28): real data without a download, as it is in the package.

`digits.npz` has the 1797 images of the test set of E. Alpaydin and C. Kaynak, "Optical Recognition of
Handwritten Digits", UCI Machine Learning Repository, 1998 (CC BY 4.0), as scikit-learn's `load_digits` gives
them. Their order is that of scikit-learn's `train_test_split`, stratified, with seed 0 and 360 held out. It
is read in milliseconds, and importing scikit-learn would take longer than all else that a worker does first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import interpolate

from fgbench.datasets import Dataset, Source, normalised

FILE = Path(__file__).with_suffix(".npz")
HELD_OUT = 360  # of 1797: the last ones


@dataclass(frozen=True)
class Digits(Source):
    """1437 training and 360 validation images of ten classes, in the shape of MNIST's."""

    summary: ClassVar[str] = "1797 real handwritten digits (UCI), resized to 1×28×28; no download"

    def load(self, data_dir: Path) -> Dataset:
        """Read the digits from the package; `data_dir` is not used."""
        with np.load(FILE) as file:
            pixels, labels = (torch.from_numpy(file[name]) for name in ("pixels", "labels"))
        images = interpolate(pixels[:, None].float(), size=(28, 28), mode="bilinear", align_corners=False)
        labels = labels.long()
        held, train = slice(-HELD_OUT, None), slice(-HELD_OUT)
        return normalised(images[train], labels[train], images[held], labels[held], classes=10)


dataset = Digits
