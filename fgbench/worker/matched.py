"""The matched group in memory: one model, one dataset, and copies of them for each method."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fgbench import architectures, datasets, methods
from fgbench.datasets import Dataset
from fgbench.measurement.allocator import keep_freed_pages
from fgbench.methods import Batch, Loss
from fgbench.plan import Group
from fgbench.training.batches import BatchOrder


@dataclass(frozen=True)
class Matched:
    """Everything that the jobs of a group share, at one seed.

    Attributes:
        group: the group.
        model: initial weights, in training mode on the device; never trained itself.
        data: on the device, in the group's dtype.
        order: of the batches.
        loss: cross-entropy.
        seed: of weights, batch order and tangents.
    """

    group: Group
    model: nn.Module
    data: Dataset
    order: BatchOrder
    loss: Loss
    seed: int

    @property
    def device(self) -> torch.device:
        """Where it all is."""
        return torch.device(self.group.device)

    def copy_of_model(self) -> nn.Module:
        """A model of one's own with the initial weights."""
        return copy.deepcopy(self.model)

    def batches(self, count: int) -> list[Batch]:
        """The first `count` batches."""
        return self.order.batches(self.data, 0, count)

    def facts(self) -> dict[str, object]:
        """What proves that jobs are matched."""
        return {
            "parameters": sum(p.numel() for p in methods.trainable(self.model).values()),
            "weights_hash": weights_hash(self.model),
            "batches_hash": self.order.digest(),
        }


def build_matched(group: Group, data_dir: str, seed: int) -> Matched:
    """Build a group's model and data from a seed alone; weights are drawn on the CPU on any device."""
    keep_freed_pages()
    full_float32()
    torch.set_num_threads(group.threads)
    device, dtype = torch.device(group.device), getattr(torch, group.dtype)
    data = datasets.load(group.dataset, Path(data_dir), group.validation_size)
    torch.manual_seed(seed)
    model = architectures.build(group.arch, group.depth, group.width, data.in_shape, data.classes)
    return Matched(
        group,
        model.to(device, dtype).train(),
        data.to(device, dtype),
        BatchOrder(len(data.train_x), group.batch, seed),
        nn.functional.cross_entropy,
        seed,
    )


def full_float32() -> None:
    """Let float32 be float32: cuDNN would otherwise round convolutions to TF32, and nothing else."""
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


def weights_hash(model: nn.Module) -> str:
    """A hash of all parameters and buffers, names included."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
