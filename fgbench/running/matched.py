"""A matched group in memory: one dataset, and one model that is copied for each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from fgbench import datasets, methods
from fgbench.datasets import Dataset
from fgbench.measurement.allocator import keep_freed_pages
from fgbench.measurement.environment import cpu_name, device_name, node_name
from fgbench.methods import Batch, Conditions, Loss
from fgbench.plan import Group
from fgbench.plan.config import TF32
from fgbench.plan.model import model_of
from fgbench.running.arms import BATCHES, Problem, fresh_copy
from fgbench.running.choices import Choices
from fgbench.running.messages import Built
from fgbench.training.batches import BatchOrder
from fgbench.training.checkpoint import weights_digest
from fgbench.training.losses import loss_of


@dataclass(frozen=True)
class Matched:
    """Everything that the jobs of a group share, at one seed.

    Attributes:
        group: the group.
        model: the model at its initial weights, on the device in training mode; only copies are trained.
        data: the dataset, on the device and in the group's dtype.
        order: the order of the batches.
        loss: cross-entropy; for text, over all tokens.
        seed: decides the weights, the order of the batches and the tangents.
        choices: what was chosen for single methods.
    """

    group: Group
    model: nn.Module
    data: Dataset
    order: BatchOrder
    loss: Loss
    seed: int
    choices: Choices = field(default_factory=Choices)

    @property
    def device(self) -> torch.device:
        """The device of model and data."""
        return torch.device(self.group.device)

    def copy_of_model(self) -> nn.Module:
        """A copy of the model with the initial weights."""
        return fresh_copy(self.model)

    def batches(self, count: int) -> list[Batch]:
        """The first `count` batches of the order."""
        return self.order.batches(self.data, 0, count)

    def conditions_of(self, spec: str) -> Conditions:
        """The conditions that a method is prepared with."""
        return self.choices.conditions_of(self.group, spec)

    def problem(self, batches: Sequence[Batch] | None = None) -> Problem:
        """The group as a problem to time, over these batches, or over the first ones."""
        given = self.batches(BATCHES) if batches is None else batches
        return Problem(self.model, self.loss, given, self.seed, self.conditions_of)

    def facts(self) -> Built:
        """The facts that prove that jobs are matched."""
        return Built(
            sum(p.numel() for p in methods.trainable(self.model).values()),
            weights_hash(self.model),
            self.order.digest(),
            node_name(),
            cpu_name(),
            device_name(self.group.device) if self.device.type == "cuda" else None,
        )


def build_matched(group: Group, data_dir: str, seed: int, choices: Choices | None = None) -> Matched:
    """Build a group's model and data from a seed; weights are drawn on the CPU, whatever the device."""
    keep_freed_pages()
    device = torch.device(group.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events, streams and graphs are made on the current device
    float32_precision("tf32" if group.dtype == TF32 else "ieee")
    torch.set_num_threads(group.threads)
    dtype = torch.float32 if group.dtype == TF32 else getattr(torch, group.dtype)
    data = datasets.load(group.dataset, Path(data_dir), group.validation_size)
    torch.manual_seed(seed)
    model, _ = model_of(group, data.in_shape, data.classes)
    return Matched(
        group,
        model.to(device, dtype).train(),
        data.to(device, dtype),
        BatchOrder(len(data.train_x), group.batch, seed),
        loss_of(data.train_y),
        seed,
        choices or Choices(),
    )


def float32_precision(precision: str) -> None:
    """`ieee` or `tf32` for all: cuDNN would otherwise round convolutions to TF32, and nothing else.

    By the older of torch's two ways to say so: after it every getter of both answers, while after
    `fp32_precision` the older ones raise, `torch.get_float32_matmul_precision` among them, which
    inductor asks.
    """
    rounded = precision == "tf32"
    torch.set_float32_matmul_precision("high" if rounded else "highest")
    torch.backends.cudnn.allow_tf32 = rounded


def weights_hash(model: nn.Module) -> str:
    """A hash of all parameters and buffers, names included."""
    return weights_digest(model.state_dict())
