"""Residual networks (He et al. 2016), on small images as in Fournier et al. 2023 and Flügel et al. 2024."""

from torch import nn

from fgbench.architectures import Architecture, Shape
from fgbench.errors import UsageError
from fgbench.optional import torchvision

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # in each stage
LARGE = 64  # pixels on a side; from here on the stem shrinks each side to a quarter, as for ImageNet


def build(depth: int, width: int, in_shape: Shape, classes: int) -> nn.Module:
    """[batch, channels, height, width] → [batch, classes]: stem, residual blocks, head, in one sequence.

    The first stage has `width` channels. Each of the three stages after it has twice as many channels as the
    one before, at half the height and width. The weights are initialised as torchvision does.

    Raises:
        UsageError: the data are no images, or torchvision does not import.
    """
    if len(in_shape) != 3:
        raise UsageError(f"resnet needs images [channels, height, width], not {in_shape}.")
    basic_block = torchvision("models.resnet", "resnet", "--arch cnn").BasicBlock
    blocks, channels = [], width
    for stage, count in enumerate(BLOCKS[depth]):
        out = width * 2**stage
        for stride in (1 if stage == 0 else 2, *[1] * (count - 1)):
            shortcut = None if stride == 1 else _convolution(channels, out, 1, stride)
            blocks.append(basic_block(channels, out, stride, shortcut))
            channels = out
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    model = nn.Sequential(_stem(in_shape, width), *blocks, *head)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def _stem(in_shape: Shape, width: int) -> nn.Sequential:
    if min(in_shape[1:]) < LARGE:
        return nn.Sequential(*_convolution(in_shape[0], width, 3, 1), nn.ReLU())
    return nn.Sequential(*_convolution(in_shape[0], width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1))


def _convolution(channels: int, out: int, kernel: int, stride: int) -> nn.Sequential:
    """A convolution and its batch norm; padding keeps the size, so that only the stride changes it."""
    layer = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out))


architecture = Architecture(
    build,
    default_depth=18,
    default_width=64,
    depths=tuple(BLOCKS),
    summary="ResNet of basic blocks; depth = number in its name, width = channels of the first of 4 stages",
)
