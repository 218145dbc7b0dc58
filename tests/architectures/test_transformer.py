"""The transformer: causal, pre-norm, its head tied to its embedding."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from fgbench import architectures
from fgbench.errors import UsageError
from fgbench.training.losses import loss_of, over_tokens


def built(depth: int = 2, width: int = 64, context: int = 12) -> torch.nn.Module:
    torch.manual_seed(0)
    return architectures.build("transformer", depth, width, (context,), 256)


def tokens(context: int = 12) -> torch.Tensor:
    return torch.randint(256, (3, context), generator=torch.Generator().manual_seed(1))


def test_no_position_sees_what_comes_after_it():
    model, x = built().double(), tokens()
    changed = x.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 256
    moved = (model(x) - model(changed)).abs().amax((0, 2))
    assert bool((moved[:7] == 0).all())
    assert bool((moved[7:] > 0).all())


def test_it_is_gpt_2s_computation_written_out():
    """Pre-norm blocks, by products and a softmax with a mask alone."""
    model, x = built().double(), tokens()
    embedded, *blocks, norm, _ = model
    h = embedded.token.weight[x] + embedded.position
    later = torch.ones(12, 12, dtype=torch.bool).triu(1)
    for block in blocks:
        q, k, v = block.attention.qkv(block.attention_norm(h)).chunk(3, 2)
        mixed = []
        for part in range(2):  # heads
            at = slice(32 * part, 32 * (part + 1))
            scores = (q[..., at] @ k[..., at].transpose(1, 2) / 32**0.5).masked_fill(later, -torch.inf)
            mixed.append(scores.softmax(-1) @ v[..., at])
        h = h + block.attention.out(torch.cat(mixed, 2))
        h = h + block.down(F.gelu(block.up(block.mlp_norm(h))))
    wanted = norm(h) @ embedded.token.weight.T
    assert torch.allclose(model(x), wanted, rtol=1e-9)


def test_the_head_is_the_embedding_also_in_a_copy():
    for model in (built(), copy.deepcopy(built()), built().double()):
        assert model[-1].weight is model[0].token.weight
    # 12 w² and 13 w a block, the embedding once
    assert sum(p.numel() for p in built().parameters()) == 2 * (12 * 64**2 + 13 * 64) + (256 + 12) * 64 + 128


def test_its_first_loss_is_that_of_knowing_nothing():
    x = tokens()
    loss = over_tokens(built()(x), x.roll(-1, 1))
    assert float(loss.detach()) == pytest.approx(math.log(256), rel=0.02)


def test_a_width_that_heads_do_not_share_is_refused():
    with pytest.raises(UsageError, match=r"--width 100: .* a multiple of 32"):
        built(width=100)


def test_the_loss_over_tokens_is_the_mean_over_all_of_them():
    output, target = torch.randn(3, 5, 7, dtype=torch.float64), torch.randint(7, (3, 5))
    one_by_one = [-torch.log_softmax(output[i, j], 0)[target[i, j]] for i in range(3) for j in range(5)]
    assert float(loss_of(target)(output, target)) == pytest.approx(float(sum(one_by_one)) / 15)
    assert loss_of(target[:, 0]) is F.cross_entropy
