"""Vision transformer (Dosovitskiy et al. 2021) at the size of Flügel et al. 2024, §4.5."""

import torch
from torch import Tensor, nn

from fgbench.architectures import Architecture, Shape
from fgbench.errors import UsageError
from fgbench.optional import torchvision

PATCH = 4  # pixels on a side
HEADS = 4
MLP_PER_WIDTH = 2  # the paper's 512 on 256
POSITION_DEVIATION = 0.02  # of the initial position embedding, as in torchvision and BERT


class Tokens(nn.Module):
    """Images [batch, channels, side, side] → tokens [batch, 1 + patches, width], a class token first."""

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, PATCH, stride=PATCH)
        nn.init.trunc_normal_(self.patches.weight, std=(channels * PATCH**2) ** -0.5)
        assert self.patches.bias is not None
        nn.init.zeros_(self.patches.bias)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        count = 1 + (side // PATCH) ** 2
        self.position = nn.Parameter(torch.empty(1, count, width).normal_(std=POSITION_DEVIATION))

    def forward(self, x: Tensor) -> Tensor:
        """The class token and each patch's embedding, with the embeddings of their positions added."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], 1) + self.position


class ClassToken(nn.Module):
    """Tokens [batch, tokens, width] → the first of them, [batch, width]."""

    def forward(self, x: Tensor) -> Tensor:
        """The class token."""
        return x[:, 0]


def build(depth: int, width: int, in_shape: Shape, classes: int) -> nn.Module:
    """[batch, channels, side, side] → [batch, classes] through `depth` encoder layers of `width` features.

    This is torchvision's VisionTransformer as one sequence, which can be cut at its layers. The head has the
    initial weights of nn.Linear; torchvision's are zero, so that no layer below would have a gradient.

    Raises:
        UsageError: patches do not tile the images, the width cannot be divided evenly among the heads, or
            torchvision does not import.
    """
    if len(in_shape) != 3 or in_shape[1] != in_shape[2] or in_shape[1] % PATCH:
        raise UsageError(f"vit needs square images of sides that {PATCH} divides, not {in_shape}.")
    if width % HEADS:
        raise UsageError(f"vit has {HEADS} heads: --width {width} must be a multiple of that.")
    encoder_block = torchvision("models.vision_transformer", "vit", "--arch cnn").EncoderBlock
    layers = [
        encoder_block(HEADS, width, MLP_PER_WIDTH * width, dropout=0.0, attention_dropout=0.0)
        for _ in range(depth)
    ]
    head = [nn.LayerNorm(width, eps=1e-6), ClassToken(), nn.Linear(width, classes)]
    return nn.Sequential(Tokens(in_shape[0], in_shape[1], width), *layers, *head)


architecture = Architecture(
    build,
    default_depth=6,
    default_width=256,
    summary="vision transformer, patches of 4×4, 4 heads; depth = encoder layers, width = features",
)
