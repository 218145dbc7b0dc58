"""The loss of a matched group: cross-entropy, with one prediction for each sample or each token."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from fgbench.methods import Loss


def loss_of(target: Tensor) -> Loss:
    """The loss for targets of this shape: a mean over all predictions, in nats."""
    return F.cross_entropy if target.dim() == 1 else over_tokens


def over_tokens(output: Tensor, target: Tensor) -> Tensor:
    """Logits [batch, …, classes] and classes [batch, …] → the mean over all of them, []."""
    return F.cross_entropy(output.flatten(0, -2), target.flatten())
