"""Multilayer perceptron with ReLU (Baydin et al. 2022, §5.2, who use two hidden layers of 1024)."""

from math import prod
from typing import TypeVar

from torch import nn

from fgbench.architectures import Architecture, Shape

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def build(depth: int, width: int, in_shape: Shape, classes: int) -> nn.Module:
    """[batch, *in_shape] → [batch, classes] through `depth` hidden layers of `width` units.

    Weights are He-initialised. PyTorch's default shrinks the signal by √6 in each layer, so that depth 100
    would train on denormal numbers.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = prod(in_shape)
    for _ in range(depth):
        layers += [he_initialised(nn.Linear(inputs, width)), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def default_initialised(depth: int, width: int, in_shape: Shape, classes: int) -> nn.Module:
    """The same with PyTorch's own initial weights, as in the code of Flügel et al. 2024."""
    model = build(depth, width, in_shape, classes)
    for layer in model.children():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return model


def he_initialised(layer: Layer) -> Layer:
    """The layer with weights of variance 2 / fan-in and zero biases (He et al. 2015)."""
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


architecture = Architecture(
    build,
    default_depth=2,
    default_width=256,
    gpu_width=2048,
    summary="multilayer perceptron with ReLU; depth = hidden layers, width = units of each",
)
