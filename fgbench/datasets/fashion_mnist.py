"""Fashion-MNIST (Xiao et al. 2017) through torchvision; it has MNIST's shape and harder classes."""

from dataclasses import dataclass
from typing import ClassVar

from fgbench.datasets._torchvision import TorchvisionSource


@dataclass(frozen=True)
class FashionMNIST(TorchvisionSource):
    """50 000 training and 10 000 validation images [1, 28, 28] of ten kinds of clothing."""

    summary: ClassVar[str] = "Fashion-MNIST by torchvision: 50 000 training, 10 000 validation images"
    name: ClassVar[str] = "FashionMNIST"
    folder: ClassVar[str] = "FashionMNIST/raw"


dataset = FashionMNIST
