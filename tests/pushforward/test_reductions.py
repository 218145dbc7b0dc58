"""What makes few numbers of many, picks them, writes them or works in place, against reverse mode."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from tests.pushforward.checks import check
from tests.pushforward.test_rules import Apply, normal, ruled

PLACES = torch.tensor([[2, 0, 1], [1, 2, 0]])


def ties(h):
    return F.relu(h)


def _complex(real, imag):
    return torch.view_as_complex(torch.stack([real, imag], -1))


REDUCTIONS = {
    "max": lambda h, x: h.max(),
    "max with ties": lambda h, x: ties(h - 9).max() + h.sum(),
    "max along a dimension": lambda h, x: torch.max(h, 1)[0],
    "max by name": lambda h, x: h.max(dim=-1, keepdim=True).values,
    "max of two": lambda h, x: torch.max(h, x),
    "min along a dimension": lambda h, x: h - h.min(1, keepdim=True).values,
    "maximum": lambda h, x: torch.maximum(x, h),
    "maximum with ties": lambda h, x: torch.maximum(ties(h), torch.zeros(()).double()) + torch.maximum(h, h),
    "minimum broadcasting": lambda h, x: torch.minimum(h, x[0]),
    "minimum of what moves": lambda h, x: torch.minimum(h[:1], h),
    "amax": lambda h, x: h.amax((0, 2)),
    "amax with ties": lambda h, x: ties(h).amax(-1, keepdim=True) * h,
    "amin of all": lambda h, x: h - torch.amin(h),
    "logsumexp": lambda h, x: h.logsumexp((0, 1)),
    "sum and mean of a scalar": lambda h, x: h.sum().sum() * h.mean().mean().amax().logsumexp(0),
    "norm": lambda h, x: h / h.norm(dim=-1, keepdim=True),
    "norm of all": lambda h, x: h.norm(),
    "normalize": lambda h, x: F.normalize(h, dim=1),
    "variance": lambda h, x: h.var(1),
    "variance with all": lambda h, x: h.var(unbiased=False),
    "variance by correction": lambda h, x: torch.var(h, (0, 1), correction=0, keepdim=True),
    "deviation": lambda h, x: h / h.std(-1, keepdim=True),
    "deviation and mean": lambda h, x: torch.std_mean(h, 1)[0] + torch.var_mean(h, 1)[1],
    "sort": lambda h, x: h.sort(1, descending=True)[0] * x,
    "topk": lambda h, x: h.topk(2, -1).values,
    "sort by numpy's name": lambda h, x: h.sort(axis=1)[0] * x,
    "topk by numpy's name": lambda h, x: h.topk(2, axis=1)[0],
    "max by numpy's names": lambda h, x: h.max(axis=1, keepdims=True)[0] * x,
    "others by numpy's names": lambda h, x: h.sum(axis=1, keepdims=True) + h.var(axis=0, keepdims=True),
    "topk and its places": lambda h, x: h.gather(1, h.topk(2, 1).indices),
}
LENGTHS, OFFSETS = torch.tensor([[1, 0, 2], [3, 0, 0]]), torch.tensor([0, 2, 2])
REDUCTIONS |= {
    "sum of segments": lambda h, x: torch.segment_reduce(h, "sum", lengths=LENGTHS, axis=1),
    "mean of segments": lambda h, x: torch.segment_reduce(h, "mean", offsets=OFFSETS, initial=3.0) * x[0],
    "largest of segments": lambda h, x: torch.segment_reduce(h, "max", offsets=OFFSETS, initial=-9),
    "smallest of equals": lambda h, x: torch.segment_reduce(
        ties(h), "min", lengths=LENGTHS, axis=-2, unsafe=True, initial=0.1
    ),
    "product of segments": lambda h, x: torch.segment_reduce(
        data=ties(h), reduce="prod", lengths=LENGTHS, axis=1, initial=2
    ),
}
WRITTEN = {
    "scatter": lambda h, x: h.scatter(1, PLACES.unsqueeze(-1), h[:, :, :1] * 2),
    "scatter a number": lambda h, x: h.scatter(1, PLACES[:, :1].unsqueeze(-1), 3.0),
    "scatter_add": lambda h, x: torch.zeros_like(h).scatter_add(1, PLACES.unsqueeze(-1).expand_as(h), h),
    "index_add": lambda h, x: x.index_add(1, torch.tensor([1, 1]), h[:, :2], alpha=2),
    "index_add into what does not move": lambda h, x: x.clone().index_add_(0, torch.tensor([1, 0]), h),
    "diagonal": lambda h, x: h.diagonal(0, 1, 2),
    "unfold": lambda h, x: h.unfold(1, 2, 1),
    "tile": lambda h, x: h.tile(2, 1),
    "vectors": lambda h, x: torch.outer(h[0, 0], x[0] @ h[1, 1]) * torch.dot(h[0, 0], x[1, 1]),
    "vector by matrix": lambda h, x: h[0, 0] @ x[0].t() @ h[1],
    "matrices by vector": lambda h, x: torch.mv(h[0], x[0, 0]) + (h @ h[0, 1])[1],
    "powers of a number": lambda h, x: 2.0**h + torch.exp2(h),
    "gated": lambda h, x: F.glu(torch.cat([h, x], -1)),
    "channels dropped": lambda h, x: F.dropout1d(h, 0.5) + F.dropout2d(h.unsqueeze(-1), 0.5).squeeze(-1),
    "exp in place": lambda h, x: h.exp_() * h,
    "clamp in place": lambda h, x: h.clamp_(-0.2, 0.4) + x,
    "clip from below": lambda h, x: h.clip(min=0.1) + h.clamp_max(0.3) + h.clamp(max=0.5),
    "sigmoid in place of a view": lambda h, x: [h[:, :1].sigmoid_(), h][1],
    "multiply and add in place": lambda h, x: h.addcmul_(x, x).mul_(x).add_(9),
    "product in place of what beta leaves out": lambda h, x: (
        x.clone().fill_(math.nan).baddbmm_(h, x.mT @ x, beta=0, alpha=0.5)
    ),
    "written into pieces": lambda h, x: [h.hsplit(3)[1].mul_(2), h.vsplit(2)[0].add_(x[:1]), h][2],
    "written into uneven pieces": lambda h, x: [
        h.tensor_split(3, -1)[0].mul_(x[..., :2]),
        torch.dsplit(h, [1, 2])[1].exp_(),
        h,
    ][2],
    "written into pieces of a vector": lambda h, x: [h[0, 0].hsplit(2)[1].mul_(3), h][1],
    "written into all entries": lambda h, x: [h.ravel().mul_(x.ravel()), h][1],
    "written into a copy of all entries": lambda h, x: [h.mT.ravel().mul_(x.ravel()), h][1],
    "written into more dimensions": lambda h, x: [
        torch.atleast_3d(h[0])[1].mul_(2),
        torch.atleast_2d((h[1, 0], x[0, 0]))[0].mul_(3),
        torch.atleast_1d(h[0, 0, 0], h[1, 2, 3])[1].mul_(x[0, 0, 0]),
        h,
    ][3],
    "written into what broadcasts": lambda h, x: [torch.broadcast_tensors(h, x[0])[0].mul_(2), h][1],
    "broadcast": lambda h, x: math.prod(torch.broadcast_tensors(x, h[0])),
    "written into parts of complex numbers": lambda h, x: [
        torch.view_as_real(torch.view_as_complex(h.view(2, 3, 2, 2)))[..., 0].mul_(x[..., :2]),
        h,
    ][1],
    "parts of complex numbers": lambda h, x: (
        torch.real(_complex(h, x * h)) + torch.imag(_complex(h, x * h).conj()) + (+h).adjoint().mT
    ),
    "written into entries at distances": lambda h, x: [
        h.as_strided((2, 2), (5, 3)).mul_(x[0, :2, :2]),
        torch.as_strided(h, (2, 2), (12, 4), storage_offset=3).add_(x[1, :2, :2]),
        h[1:].as_strided((3,), (2,)).exp_(),
        h,
    ][3],
    "written into what is contiguous": lambda h, x: [h[:1].contiguous().mul_(x[:1]), h][1],
    "written into a copy": lambda h, x: [h.transpose(1, 2).contiguous().mul_(3), h][1],
    "written into what does not move": lambda h, x: x.clone().mul_(h),
}


@pytest.mark.parametrize("name", [*REDUCTIONS, *WRITTEN])
def test_by_rules_alone_and_what_reverse_mode_says(name):
    torch.manual_seed(0)
    ruled(Apply((REDUCTIONS | WRITTEN)[name], nn.Linear(4, 4)), normal(2, 3, 4))


def test_nothing_moves_where_a_norm_or_a_deviation_is_zero():
    def function(h, x):
        still = h - h
        return h + still.norm() + torch.linalg.vector_norm(still, dim=1, keepdim=True)

    ruled(Apply(function, nn.Linear(4, 4)), normal(2, 3, 4))


def test_entries_at_distances_of_what_is_not_contiguous_go_by_stock_forward_mode():
    def function(h, x):
        turned = h.transpose(1, 2)
        return turned.as_strided(turned.shape, turned.stride()) * x.mT

    pushforward = check(Apply(function, nn.Linear(4, 4)), normal(2, 3, 4))
    assert [f.split()[-1] for f in pushforward.fallbacks] == ["torch.func.jvp"]


def test_what_has_no_rule_in_place_is_done_on_a_copy():
    for function in (lambda h, x: h.lgamma_() + h, lambda h, x: x.clone().lerp_(h, 0.3)):
        pushforward = check(Apply(function, nn.Linear(4, 4)), normal(2, 3, 4))
        assert [f.split()[-1] for f in pushforward.fallbacks] == ["torch.func.jvp"]


def test_an_operation_in_place_may_change_the_shape():
    check(Apply(lambda h, x: h.unsqueeze_(0) + 1, nn.Linear(4, 4)), normal(2, 3, 4))


def test_complex_numbers_move_too():
    """Rotary embeddings as Meta writes them, and a Fourier transform."""

    def turned(h, x):
        pairs = torch.view_as_complex(h.reshape(2, 3, 2, 2).contiguous())
        turn = torch.polar(torch.ones(3, 2).double(), torch.arange(6).double().view(3, 2))
        return torch.view_as_real(pairs * turn).flatten(2)

    def transformed(h, x):
        return torch.fft.fft(h).abs() + torch.fft.rfft(h, dim=1).real.sum(1, keepdim=True)

    for function in (turned, transformed):
        check(Apply(function, nn.Linear(4, 4)), normal(2, 3, 4))


@pytest.mark.parametrize(
    "function", [torch.tanh, torch.sigmoid, torch.var, lambda z: torch.std(z, 1), torch.var_mean]
)
def test_functions_whose_slope_is_conjugated_in_reverse_mode(function):
    def split(h, x):
        found = function(torch.complex(h, x - h))
        parts = found if isinstance(found, tuple) else (found,)
        return torch.cat(
            [part.flatten() for z in parts for part in (z.real, z.imag if z.is_complex() else z)]
        )

    check(Apply(split, nn.Linear(4, 4)), normal(2, 3, 4))
