"""The vision transformer is torchvision's, in one sequence, and runs on rules alone."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.errors import UsageError
from tests.builders import built_model, cross_entropy

DEPTH, WIDTH = 2, 16


def vit(in_shape: tuple[int, ...] = (3, 16, 16), width: int = WIDTH) -> nn.Module:
    torch.manual_seed(0)
    return built_model("vit", DEPTH, width, in_shape, 10)


def torchvisions_name(ours: str) -> str:
    place, rest = re.match(r"(\d+)\.(.*)", ours).groups()
    if place == "0":
        names = {"class_token": "class_token", "position": "encoder.pos_embedding"}
        return names.get(rest, rest.replace("patches", "conv_proj"))
    after = {DEPTH + 1: "encoder.ln", DEPTH + 3: "heads.head"}
    return f"{after.get(int(place), f'encoder.layers.encoder_layer_{int(place) - 1}')}.{rest}"


def test_it_is_torchvisions():
    models = pytest.importorskip("torchvision.models", exc_type=Exception)
    ours = vit().eval()
    theirs = models.VisionTransformer(16, 4, DEPTH, 4, WIDTH, 2 * WIDTH, num_classes=10).eval()
    theirs.load_state_dict({torchvisions_name(k): v for k, v in ours.state_dict().items()})
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_it_is_one_sequence_with_a_layer_for_each_of_its_depth():
    names = [type(m).__name__ for m in vit()]
    assert names == ["Tokens", *["EncoderBlock"] * DEPTH, "LayerNorm", "ClassToken", "Linear"]


@pytest.mark.parametrize("in_shape", [(1, 28, 24), (1, 30, 30), (28, 28)])
def test_images_that_patches_do_not_tile_are_a_line(in_shape):
    with pytest.raises(UsageError, match="square images of sides that 4 divides"):
        vit(in_shape)


def test_a_width_that_heads_do_not_share_is_a_line():
    with pytest.raises(UsageError, match="--width 18 must be a multiple"):
        vit(width=18)


@pytest.mark.parametrize(
    "spec", ["forward:tangents=3", "forward:structure=rank-one", "forward:structure=activity"]
)
def test_nothing_falls_back_and_samples_do_not_meet(spec):
    step = methods.find(spec).prepare(vit().train(), cross_entropy, seed=0)
    step((torch.randn(4, 3, 16, 16), torch.arange(4)), 0.1)
    assert step.notes() == []
