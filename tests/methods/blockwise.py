"""Small models that are cut into blocks, and batches for them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fgbench import architectures, datasets, methods
from fgbench.methods import Batch
from tests.builders import cross_entropy

CLASSES = 3


def small_mlp(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return architectures.build("mlp", 3, 8, (1, 8, 8), CLASSES).to(dtype).train()


def small_convnet(normalised: bool = False) -> nn.Module:
    """Three blocks: two of images, then the head."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d if normalised else lambda channels: nn.Identity()
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), norm(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, stride=2, padding=1), norm(6), nn.Tanh()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES)),
    ).double()


def small_resnet() -> nn.Module:
    """A stem, two residual blocks, the second with a downsampled skip, and a head."""
    from torchvision.models.resnet import BasicBlock

    torch.manual_seed(0)
    skip = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.BatchNorm2d(6))
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(BasicBlock(4, 4), BasicBlock(4, 6, 2, skip)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)),
    ).double()


def small_batch(samples: int = 6, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 1, 8, 8, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.arange(samples) % CLASSES


def trained_on_digits(spec: str, steps: int, rate: float, seed: int = 0, depth: int = 3):
    """A step after training an MLP of width 32 on the digits: (step, model, the next batch, losses)."""
    data = datasets.load("digits", Path("nowhere"), 256)
    torch.manual_seed(0)
    model = architectures.build("mlp", depth, 32, data.in_shape, data.classes).train()
    step = methods.find(spec).prepare(model, cross_entropy, seed)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        index = torch.randint(len(data.train_x), (64,), generator=generator)
        losses.append(float(step((data.train_x[index], data.train_y[index]), rate)))
    return step, model, (data.train_x[:64], data.train_y[:64]), losses
