"""Convolutional network (Baydin et al. 2022, §5.2: four 3×3×64 convolutions, two poolings, fc 1024)."""

from torch import nn

from fgbench.architectures import Architecture, Shape
from fgbench.architectures.mlp import he_initialised
from fgbench.errors import UsageError

FULLY_CONNECTED_PER_CHANNEL = 16  # the paper's 1024 units on 64 channels


def build(depth: int, width: int, in_shape: Shape, classes: int) -> nn.Module:
    """[batch, channels, height, width] → [batch, classes] through `depth` convolutions of `width` channels.

    A 2×2 max-pooling follows the middle and the last convolution; at the paper's depth 4, these are the
    second and the fourth. Padding keeps the size of the images.
    """
    if len(in_shape) != 3 or min(in_shape[1:]) < 4:
        raise UsageError(f"cnn needs images [channels, height, width] of at least 4×4, not {in_shape}.")
    pooled_after = {(depth + 1) // 2, depth}
    layers: list[nn.Module] = []
    channels = in_shape[0]
    for index in range(1, depth + 1):
        layers += [he_initialised(nn.Conv2d(channels, width, kernel_size=3, padding=1)), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if index in pooled_after else []
        channels = width
    side = 2 ** len(pooled_after)
    features = width * (in_shape[1] // side) * (in_shape[2] // side)
    hidden = FULLY_CONNECTED_PER_CHANNEL * width
    head = [nn.Flatten(), he_initialised(nn.Linear(features, hidden)), nn.ReLU(), nn.Linear(hidden, classes)]
    return nn.Sequential(*layers, *head)


architecture = Architecture(
    build,
    default_depth=4,
    default_width=64,
    summary="the CNN of Baydin et al. 2022 at depth 4; depth = convolutions, width = their channels",
)
