"""ResNet: torchvision's own where the stems agree, one sequence that can be cut, batch norm done right."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.errors import UsageError
from tests.builders import built_model, cross_entropy

BLOCKS = {18: 8, 34: 16}


def resnet(in_shape: tuple[int, ...] = (3, 8, 8), depth: int = 18, width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return built_model("resnet", depth, width, in_shape, 10)


@pytest.mark.parametrize("depth", BLOCKS)
def test_on_large_images_it_is_torchvisions(depth):
    models = pytest.importorskip("torchvision.models", exc_type=Exception)
    ours, theirs = resnet((3, 64, 64), depth, 64).eval(), getattr(models, f"resnet{depth}")(num_classes=10)
    states = ours.state_dict(), theirs.state_dict()
    theirs.load_state_dict(dict(zip(states[1], states[0].values(), strict=True)))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs.eval()(x), rtol=1e-4)


@pytest.mark.parametrize("depth", BLOCKS)
def test_it_is_a_stem_blocks_and_a_head_in_one_sequence(depth):
    stem, *blocks, pool, flatten, head = resnet(depth=depth)
    assert isinstance(stem, nn.Sequential)
    assert [type(b).__name__ for b in blocks] == ["BasicBlock"] * BLOCKS[depth]
    assert [type(m) for m in (pool, flatten, head)] == [nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear]


def test_on_small_images_it_keeps_their_size_and_has_the_known_number_of_parameters():
    """11 173 962, as every ResNet-18 for CIFAR-10 with a 3×3 stem."""
    model = resnet((3, 32, 32), width=64)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    x, shapes = torch.zeros(1, 3, 32, 32), []
    for module in list(model.eval())[:9]:
        x = module(x)
        shapes.append(tuple(x.shape[1:]))
    stages = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert shapes == [stages[0], *(s for s in stages for _ in range(2))]


def test_no_images_are_a_line():
    with pytest.raises(UsageError, match=r"resnet needs images .* not \(3, 1024\)"):
        resnet((3, 1024))


@pytest.mark.parametrize(
    "spec", ["forward:tangents=3,chunk=1", "forward:structure=rank-one", "forward:structure=activity"]
)
def test_a_step_moves_running_statistics_as_one_evaluation_does(spec):
    model, x = resnet().train(), torch.randn(8, 3, 8, 8)
    evaluated = copy.deepcopy(model)
    evaluated(x)
    step = methods.find(spec).prepare(model, cross_entropy, seed=0)
    step((x, torch.arange(8)), 0.0)
    for (name, ours), wanted in zip(model.named_buffers(), evaluated.buffers(), strict=True):
        assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-6), name
        assert not ours.requires_grad
    assert not [note for note in step.notes() if "torch.func.jvp" in note or "dual numbers" in note]
