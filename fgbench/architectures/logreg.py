"""Logistic regression (Baydin et al. 2022, §5.1): one linear layer from pixels to classes."""

from math import prod

from torch import nn

from fgbench.architectures import Architecture, Shape


def build(depth: int, width: int, in_shape: Shape, classes: int) -> nn.Module:
    """[batch, *in_shape] → [batch, classes]; depth and width are ignored."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(in_shape), classes))


architecture = Architecture(
    build,
    default_depth=1,
    default_width=1,
    depths=(1,),
    summary="logistic regression, one linear layer; takes no depth and no width",
)
