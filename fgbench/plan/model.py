"""The model that a matched group's jobs begin with: built, with its weights, frozen where it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fgbench import architectures
from fgbench.plan.group import Group

if TYPE_CHECKING:
    from torch import nn


def model_of(group: Group, in_shape: architectures.Shape, classes: int) -> tuple[nn.Module, str]:
    """The model, with weights from torch's random numbers or a file, and the hash of that file's weights.

    Raises:
        UsageError: it cannot be built, or what it is to begin from or to train does not go with it.
    """
    from fgbench.training.checkpoint import load_into
    from fgbench.training.trained import choose_trained

    model = architectures.build(group.arch, group.depth, group.width, in_shape, classes)
    weights = load_into(model, group.start) if group.start else ""
    choose_trained(model, group.trained)
    return model, weights
