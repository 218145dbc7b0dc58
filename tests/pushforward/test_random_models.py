"""Models composed at random of what has a rule: by rules alone, and what reverse mode says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fgbench.methods import trainable
from fgbench.pushforward.engine import Pushforward
from tests.pushforward.checks import by_reverse_mode, derivatives, drawn

SAMPLES, LENGTH, WIDTH = 2, 3, 4  # every part maps [samples, length, width] onto itself

Part = Callable[[nn.ParameterList, Tensor, Tensor], Tensor]
"""(parameters, h, the model's input) → h; a part takes the parameters that it wants, twice if it likes."""


def heads(h: Tensor) -> Tensor:
    return h.unflatten(-1, (2, -1)).transpose(1, 2)


def joined(h: Tensor) -> Tensor:
    return h.transpose(1, 2).flatten(2)


def looping(p: nn.ParameterList, h: Tensor, x: Tensor) -> Tensor:
    for _ in range(3):
        if h.abs().mean() > 0.3:
            h = torch.tanh(F.linear(h, p[0])) * 0.5
    return h


def in_place(p: nn.ParameterList, h: Tensor, x: Tensor) -> Tensor:
    h = h * p[1]
    h += x
    h[:, 0] = h[:, 1] * 2
    return h.clamp_(-2, 2)


def written(p: nn.ParameterList, h: Tensor, x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, 1:] = h[:, :-1]
    return out + h


def doubled(h: Tensor) -> Tensor:
    return h * 2 * h


def rotated(p: nn.ParameterList, h: Tensor, x: Tensor) -> Tensor:
    one, other = h.chunk(2, -1)
    return h * x.cos() + torch.cat([-other, one], -1) * x.sin()


PRODUCTS: dict[str, Part] = {
    "linear": lambda p, h, x: F.linear(h, p[0], p[1]),
    "linear by its transpose": lambda p, h, x: F.linear(h, p[0].t()),
    "addmm": lambda p, h, x: torch.addmm(p[1], h.flatten(0, 1), p[0]).view_as(h),
    "einsum": lambda p, h, x: torch.einsum("blw,wv,bl->blv", h, p[0], x.mean(-1)),
    "matmul of what moves": lambda p, h, x: h @ (h.transpose(1, 2) @ h) / 4,
    "convolution": lambda p, h, x: F.conv1d(h, p[2], p[1][:LENGTH], padding=1),
    "transposed convolution": lambda p, h, x: F.conv_transpose1d(h, p[2], padding=1),
    "attention": lambda p, h, x: joined(
        F.scaled_dot_product_attention(heads(h), heads(F.linear(h, p[0])), heads(h), is_causal=True)
    ),
    "attention by hand": lambda p, h, x: (h @ F.linear(h, p[0]).mT).softmax(-1) @ h,
    "embedding": lambda p, h, x: h + F.embedding(torch.tensor([[0, 1, 0]]), p[0], padding_idx=1),
    "product with a parameter": lambda p, h, x: h * p[1] + p[1].sin(),
    "weight of length one": lambda p, h, x: F.linear(h, p[0] / p[0].norm(dim=1, keepdim=True)),
}
NORMS: dict[str, Part] = {
    "layer norm": lambda p, h, x: F.layer_norm(h, (WIDTH,), p[1], p[1]),
    "rms norm": lambda p, h, x: F.rms_norm(h, (WIDTH,), p[1], 1e-3),
    "batch norm": lambda p, h, x: F.batch_norm(h, None, None, None, p[3], training=True, eps=0.1),
    "group norm": lambda p, h, x: F.group_norm(h, 1, p[3], p[3], eps=0.1),
    "norm of length": lambda p, h, x: F.normalize(h + 1, dim=-1),
    "standardised": lambda p, h, x: (h - h.mean(-1, keepdim=True)) / (0.5 + h.std(1, keepdim=True)),
}
ENTRIES: dict[str, Part] = {
    name: lambda p, h, x, function=function: function(h)
    for name, function in {
        **{f.__name__: f for f in (torch.tanh, F.gelu, F.silu, F.softplus, F.elu, F.mish, F.leaky_relu)},
        **{f.__name__: f for f in (torch.sin, torch.sigmoid, F.relu, F.hardswish, F.logsigmoid)},
        "softmax": lambda h: h.softmax(-1),
        "log softmax": lambda h: F.log_softmax(h, 1),
        "root": lambda h: (1 + h.square()).sqrt(),
        "quotient": lambda h: h / (1 + h.abs()),
        "power": lambda h: (1 + h.abs()) ** -1.5,
        "exponential": lambda h: torch.exp(-h.abs()),
        "logarithm": lambda h: torch.log1p(h.abs()),
        "dropout": lambda h: F.dropout(h, 0.3),
        "masked": lambda h: h.masked_fill(torch.eye(LENGTH, WIDTH, dtype=torch.bool), 0.5),
        "where": lambda h: torch.where(h > 0, h, 0.1 * h * h),
    }.items()
}
MOVES: dict[str, Part] = {
    name: lambda p, h, x, function=function: function(h)
    for name, function in {
        "rolled": lambda h: h.roll(1, -1),
        "flipped": lambda h: h.flip(1),
        "indexed": lambda h: h[:, torch.tensor([1, 0, 1])],
        "gathered": lambda h: h.gather(1, torch.tensor([2, 0, 1]).view(1, 3, 1).expand(h.shape)),
        "stacked": lambda h: torch.stack(h.unbind(-1)[::-1], -1),
        "cut and joined": lambda h: torch.cat(h.split([1, 3], -1)[::-1], -1),
        "permuted": lambda h: h.permute(2, 0, 1).reshape(WIDTH, -1).t().reshape(h.shape),
        "summed so far": lambda h: h.cumsum(1),
        "spread": lambda h: h.sum(1, keepdim=True).expand_as(h),
        "sorted and read twice": lambda h: doubled(h.sort(-1)[0]),
        "largest and read twice": lambda h: h + doubled(h.max(-1, keepdim=True).values),
        "moments read twice": lambda h: h + doubled(torch.var_mean(h, 1, keepdim=True)[1]),
        "largest": lambda h: h - h.max(-1, keepdim=True).values,
        "sorted": lambda h: h.sort(-1)[0] + h.logsumexp(1, keepdim=True),
        "padded": lambda h: F.pad(h, (1, 0), value=2.0)[..., :-1],
        "pooled": lambda h: F.pad(F.avg_pool1d(h, 2, 1) + F.max_pool1d(h, 2, 1), (0, 1)),
        "repeated": lambda h: h[:, :1].repeat(1, LENGTH, 1) * h.tril(),
        "added at places": lambda h: h.index_add(1, torch.tensor([0, 0]), h[:, 1:]),
    }.items()
}
OTHERS: dict[str, Part] = {
    "loop": looping,
    "in place": in_place,
    "written": written,
    "rotated": rotated,
    "input": lambda p, h, x: torch.maximum(h, x) - h * x,
}
PARTS = PRODUCTS | NORMS | ENTRIES | MOVES | OTHERS


class Composed(nn.Module):
    """Parts one after the other, each added to what it was given where `residual` says so."""

    def __init__(self, parts: list[str], residual: list[bool]) -> None:
        super().__init__()
        self.parts, self.residual = parts, residual
        shapes = ((WIDTH, WIDTH), (WIDTH,), (LENGTH, LENGTH, 3), (LENGTH,))
        self.own = nn.ParameterList(nn.Parameter(torch.randn(shape) / 2) for shape in shapes)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, self.own[0], self.own[1])
        for name, added in zip(self.parts, self.residual, strict=True):
            out = PARTS[name](self.own, h.clone() if added else h, x)
            h = h + out if added else out
        return self.head(h)


def tokens(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.transpose(1, 2), target, ignore_index=2, label_smoothing=0.1)


def regression(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output.sum(-1), target.double())


LOSSES: list[Callable[..., Any]] = [tokens, regression]


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(
    parts=st.lists(st.sampled_from(sorted(PARTS)), min_size=2, max_size=6),
    residual=st.lists(st.booleans(), min_size=6, max_size=6),
    frozen=st.sets(st.sampled_from(["own.0", "own.1", "own.2", "own.3"]), max_size=2),
    loss=st.sampled_from(LOSSES),
    structure=st.sampled_from(["gaussian", "rank-one"]),
    count=st.sampled_from([1, 1, 3]),
    seed=st.integers(0, 2**16),
)
def test_a_random_model_moves_as_reverse_mode_says(parts, residual, frozen, loss, structure, count, seed):
    torch.manual_seed(seed)
    model = Composed(parts, residual[: len(parts)]).double()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    batch = torch.randn(SAMPLES, LENGTH, WIDTH).double(), torch.tensor([[0, 1, 2], [2, 1, 1]])
    tangents = drawn(model, count, structure, seed)
    _, wanted = by_reverse_mode(model, loss, batch, tangents)
    pushforward = Pushforward(model, loss)
    scale = max(float(wanted.norm()), 1e-3)
    for call in ("by the model's own Python", "by its program"):
        _, found = derivatives(pushforward, tangents, batch)
        off = float((found - wanted).norm()) / scale
        assert off <= 1e-9, f"{call}, the derivatives are off by a share of {off:.2g}"
    assert pushforward.fallbacks == []


def test_every_part_by_itself():
    """So that none is left out, however hypothesis draws; and each moves something."""
    batch = torch.randn(SAMPLES, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    target = torch.tensor([[0, 1, 2], [2, 1, 1]])
    for name in PARTS:
        torch.manual_seed(0)
        model = Composed([name], [False]).double()
        tangents = drawn(model, 2)
        _, wanted = by_reverse_mode(copy.deepcopy(model), tokens, (batch, target), tangents)
        pushforward = Pushforward(model, tokens)
        for call in ("by the model's own Python", "by its program"):
            _, found = derivatives(pushforward, tangents, (batch, target))
            assert torch.allclose(found, wanted, rtol=1e-9), f"{name}, {call}"
        assert pushforward.fallbacks == [], name
        assert all(wanted.abs() > 1e-6), name
    assert len(trainable(model)) == 6
