"""Fashion-MNIST through torchvision: MNIST's shape, harder classes."""

from dataclasses import dataclass
from typing import ClassVar

from fgbench.datasets.mnist import MNIST


@dataclass(frozen=True)
class FashionMNIST(MNIST):
    """50 000 training and 10 000 validation images [1, 28, 28] of ten kinds of clothing."""

    summary: ClassVar[str] = "Fashion-MNIST by torchvision: 50 000 training, 10 000 validation images"
    torchvision_name: ClassVar[str] = "FashionMNIST"


dataset = FashionMNIST
