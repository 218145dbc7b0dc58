"""Decoder-only transformer over bytes (Radford et al. 2019, GPT-2's layout), written in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fgbench.architectures import TEXT, Architecture, Shape
from fgbench.errors import UsageError

HEAD_WIDTH = 32  # the fewest features of a head
MLP_PER_WIDTH = 4
DEVIATION = 0.02  # of initial weights, GPT-2's


class Embedded(nn.Module):
    """Tokens [batch, context] → [batch, context, width], by an embedding of the token and of its position."""

    def __init__(self, classes: int, context: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(classes, width)
        nn.init.normal_(self.token.weight, std=DEVIATION)
        self.position = nn.Parameter(torch.empty(context, width).normal_(std=DEVIATION))

    def forward(self, tokens: Tensor) -> Tensor:
        """The sum of both embeddings."""
        return self.token(tokens) + self.position


class Attention(nn.Module):
    """Causal self-attention of several heads, [batch, context, width] → the same."""

    def __init__(self, width: int, heads: int, deviation: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _linear(width, 3 * width, DEVIATION)
        self.out = _linear(width, width, deviation)

    def forward(self, x: Tensor) -> Tensor:
        """Each position looks at itself and at those before it."""
        parts = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and then a perceptron; each takes a normalised input and is added to its input."""

    def __init__(self, width: int, heads: int, deviation: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, deviation)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = _linear(width, MLP_PER_WIDTH * width, DEVIATION)
        self.activation = nn.GELU()
        self.down = _linear(MLP_PER_WIDTH * width, width, deviation)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, context, width] → the same."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(self.activation(self.up(self.mlp_norm(x))))


def _linear(inputs: int, outputs: int, deviation: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)
    return layer


def build(depth: int, width: int, in_shape: Shape, classes: int) -> nn.Module:
    """Tokens [batch, context] → logits of the next [batch, context, classes], through `depth` blocks.

    The model is one sequence, which can be cut at its blocks. The head shares the embedding's weight.

    Raises:
        UsageError: the width cannot be divided evenly among the heads.
    """
    heads = max(1, width // HEAD_WIDTH)
    if width % heads:
        raise UsageError(
            f"--width {width}: transformer has a head for each {HEAD_WIDTH} features: "
            f"take a multiple of {HEAD_WIDTH}, or less than {2 * HEAD_WIDTH}."
        )
    # Layers whose outputs are summed begin with smaller weights, so that depth does not enlarge the sum.
    deviation = DEVIATION / math.sqrt(2 * depth)
    embedded = Embedded(classes, in_shape[0], width)
    head = nn.Linear(width, classes, bias=False)
    head.weight = embedded.token.weight
    blocks = [Block(width, heads, deviation) for _ in range(depth)]
    return nn.Sequential(embedded, *blocks, nn.LayerNorm(width), head)


architecture = Architecture(
    build,
    default_depth=4,
    default_width=128,
    summary="decoder-only transformer over the bytes of a text, head tied to the embedding; depth = blocks, "
    f"width = features, a head for each {HEAD_WIDTH}",
    takes=TEXT,
)
