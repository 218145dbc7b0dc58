"""MNIST (LeCun et al. 1998) through torchvision."""

from dataclasses import dataclass
from typing import ClassVar

from fgbench.datasets._torchvision import TorchvisionSource


@dataclass(frozen=True)
class MNIST(TorchvisionSource):
    """50 000 training and 10 000 validation images [1, 28, 28] of ten digits."""

    summary: ClassVar[str] = "MNIST by torchvision: 50 000 training, 10 000 validation images"
    name: ClassVar[str] = "MNIST"
    folder: ClassVar[str] = "MNIST/raw"


dataset = MNIST
