"""CIFAR-10 (Krizhevsky 2009) through torchvision."""

from dataclasses import dataclass
from typing import ClassVar

from fgbench.datasets._torchvision import TorchvisionSource


@dataclass(frozen=True)
class CIFAR10(TorchvisionSource):
    """40 000 training and 10 000 validation images [3, 32, 32] of ten kinds of things."""

    summary: ClassVar[str] = "CIFAR-10 by torchvision: 40 000 training, 10 000 validation images in colour"
    name: ClassVar[str] = "CIFAR10"
    folder: ClassVar[str] = "cifar-10-batches-py"


dataset = CIFAR10
