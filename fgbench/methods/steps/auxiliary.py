"""Auxiliary networks: they map a block's output to logits, so that the block has a loss of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.methods import Conditions, Loss
from fgbench.methods.steps.blocks import State, activation
from fgbench.methods.steps.update import Update
from fgbench.pushforward.context import Context
from fgbench.pushforward.engine import Pushforward

KINDS = ("linear", "mlp", "cnn")
HELP = (
    "the kind of a block's auxiliary network. linear: batch norm, 2×2 pooling and a linear layer; mlp: 2×2 "
    "pooling and three hidden layers; cnn: a 1×1 and three 3×3 stride-2 convolutions. Where a block gives "
    "features instead of images, there is no pooling, and no cnn"
)
FEW_BLOCKS = 8  # with more blocks the paper halves the widths of its auxiliary networks
CHANNELS, HIDDEN = (32, 16), (1024, 512)
SIDE = 2  # pooling leaves so many rows and columns
# Features are not pooled. Hidden layers of 1/16 of their number cost 7 % of a layer as wide as the features.
FEATURES_PER_UNIT, FEWEST_UNITS = 16, 16


class Auxiliaries:
    """A network for each block but the last; weights are not set before `initialise`.

    Args:
        kind: one of `KINDS`.
        shapes: the shapes of the blocks' outputs for one sample.
        classes: how many logits the networks have.
        blocks: how many blocks the model is cut into, as widths depend on it.
        like: a tensor of the wanted dtype and device.
        loss: (logits, target) → scalar.
        conditions: how they are trained; None where they are not.

    Raises:
        UsageError: `cnn` is asked for a block that gives no images, or a block gives neither images nor
            features.
    """

    def __init__(
        self,
        kind: str,
        shapes: Sequence[Sequence[int]],
        classes: int,
        blocks: int,
        like: Tensor,
        loss: Loss,
        conditions: Conditions | None,
    ) -> None:
        self.loss = loss
        with torch.device("meta"):  # so that no global random numbers are drawn
            made = [_network(kind, shape, classes, blocks > FEW_BLOCKS, i) for i, shape in enumerate(shapes)]
        self.networks = nn.ModuleList(made).to(like.dtype).to_empty(device=like.device)
        self.networks.requires_grad_(conditions is not None)
        self.pushforwards = [Pushforward(network, loss) for network in self.networks]
        self.parameters = [list(network.parameters()) for network in self.networks]
        self.update = Update(list(chain(*self.parameters)), conditions) if conditions else None
        self.gradients: list[Sequence[Tensor]] = [()] * len(shapes)
        self.owed: float | None = None

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew, uniform in ±1/√fan-in as PyTorch does."""
        for module in self.networks.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                bound = 1 / math.sqrt(module.weight[0].numel())
                for parameter in module.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight.fill_(1)
                module.bias.zero_()

    def slope(self, index: int, state: State, target: Tensor, *, learn: bool = False) -> Tensor:
        """∂(auxiliary loss)/∂(output of a block), of that shape, by reverse mode in the network alone.

        With `learn` the gradient of the network's own parameters is kept for `settle`.
        """
        leaf = activation(state).detach().requires_grad_()
        with torch.enable_grad():
            value = self.loss(self.networks[index](leaf), target)
        own = self.parameters[index] if learn else []
        slope, *gradients = torch.autograd.grad(value, [leaf, *own])
        if learn:
            self.gradients[index] = gradients
        return slope

    def derivatives(self, index: int, state: State, target: Tensor) -> Tensor:
        """Derivatives of the auxiliary loss along k tangents by forward mode, [k, batch] or [k, 1]."""
        moved = activation(state)
        context, pushforward = Context(len(moved.tangents), {}), self.pushforwards[index]
        output = pushforward.push(context, moved)
        return pushforward.derivatives(context, output, target)[1]

    def owe(self, learning_rate: float) -> None:
        """Mark the networks' own update as due; it waits for the next step, so that this can be checked."""
        self.owed = learning_rate

    def settle(self) -> None:
        """Update the networks, if that is due."""
        if self.update is None or self.owed is None:
            return
        self.update.by_gradients(list(chain(*self.gradients)), self.owed)
        self.gradients = [()] * len(self.gradients)
        self.owed = None

    def state(self) -> dict[str, Any]:
        """The networks' weights and their optimiser's state."""
        self.settle()
        optimizer = self.update.optimizer if self.update else None
        return {
            "networks": self.networks.state_dict(),
            "optimizer": optimizer.state_dict() if optimizer else None,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`; an update that was due is dropped."""
        self.owed = None
        self.networks.load_state_dict(state["networks"])
        if self.update and self.update.optimizer:
            self.update.optimizer.load_state_dict(state["optimizer"])


def _network(kind: str, shape: Sequence[int], classes: int, narrow: bool, index: int) -> nn.Module:
    if len(shape) not in (1, 3):
        raise UsageError(
            f"auxiliary networks take images or features, and block {index + 1} gives {tuple(shape)}."
        )
    images = len(shape) == 3
    if kind == "cnn":
        if not images:
            raise UsageError(
                f"aux=cnn takes images, and block {index + 1} gives features: use aux=linear or aux=mlp, or "
                "fewer blocks."
            )
        return _cnn(shape[0], CHANNELS[narrow], classes)
    features = SIDE * SIDE * shape[0] if images else shape[0]
    pooling: list[nn.Module] = [nn.AdaptiveAvgPool2d(SIDE), nn.Flatten()] if images else []
    if kind == "mlp":
        cheap = HIDDEN[narrow] if images else max(FEWEST_UNITS, features // FEATURES_PER_UNIT)
        return nn.Sequential(*pooling, *_mlp(features, min(cheap, HIDDEN[narrow]), classes))
    norm = nn.BatchNorm2d if images else nn.BatchNorm1d
    return nn.Sequential(norm(shape[0], track_running_stats=False), *pooling, nn.Linear(features, classes))


def _mlp(features: int, width: int, classes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs in (features, width, width):
        norm = nn.BatchNorm1d(width, track_running_stats=False)
        layers += [nn.Linear(inputs, width, bias=False), norm, nn.ReLU()]
    return [*layers, nn.Linear(width, classes)]


def _cnn(channels: int, width: int, classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 1)]
    for _ in range(3):
        norm = nn.BatchNorm2d(width, track_running_stats=False)
        layers += [nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False), norm, nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(SIDE), nn.Flatten(), nn.Linear(SIDE * SIDE * width, classes)]
    return nn.Sequential(*layers, *head)
