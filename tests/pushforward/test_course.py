"""What a model's own Python may do with values that have tangents, over several batches of one shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.pushforward.checks import steps_are_right

CLASSES = 3
SPECS = ("forward", "forward:structure=rank-one,tangents=2", "forward:structure=activity")


class Of(nn.Module):
    """A function of a layer's output and the input, between two layers."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.inner, self.other, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.mask: Tensor
        self.register_buffer("mask", torch.arange(8) % 3 == 0)

    def forward(self, x):
        return self.head(self.function(self, torch.tanh(self.inner(x)), x))


def batches(count: int = 5) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 6, generator=generator).double(), torch.randint(CLASSES, (8,), generator=generator))
        for _ in range(count)
    ]


# ---- sizes that depend on values


def _mean_of_masked(model, h, x):
    picked = h[x[:, 0] > 0]
    return h + picked.sum() / max(picked.shape[0], 1)


def _written_where_masked(model, h, x):
    mask, out = x[:, 0] > 0, h.clone()
    out[mask] = model.other(h[mask])
    return out


def _added_where(model, h, x):
    (places,) = torch.where(x[:, 0] > 0)
    return h.index_add(0, places, model.other(h[places]))


def _repeated(model, h, x):
    counts = (x[:, 0] > 0).long() + 1
    repeated = h.repeat_interleave(counts, 0)
    return h + repeated.sum() / len(repeated)


def _up_to_the_longest(model, h, x):
    longest = (x > 0).sum(1).max()
    return h + h[:, :longest].sum() / h[:, :longest].shape[1]


def _of_as_many_as_there_are(model, h, x):
    places = torch.arange((x[:, 0] > 0).sum() + 1)
    return h + h[places].mean() * len(places)


def _in_classes(model, h, x):
    classes = F.one_hot((x[:, 0] > 0.5).long() + (x[:, 1] > 0.5).long())
    return h * classes.shape[1] + classes.sum()


def _split(model, h, x):
    first, _ = x.tensor_split((x[:, 0] > 0).sum()[None])
    return h * first.sum() / (len(first) + 1)


SIZED = {
    "the mean of what is masked": _mean_of_masked,
    "written where masked": _written_where_masked,
    "added where": _added_where,
    "repeated": _repeated,
    "up to the longest": _up_to_the_longest,
    "as many as there are": _of_as_many_as_there_are,
    "in classes": _in_classes,
    "split": _split,
}


@pytest.mark.parametrize("spec", SPECS[:2])
@pytest.mark.parametrize("name", SIZED)
def test_sizes_that_depend_on_values_are_not_kept(name, spec):
    torch.manual_seed(0)
    step = steps_are_right(spec, Of(SIZED[name]).double(), given=batches())
    assert all("asks for values" in why for why in step.pushforward.settled.values())


def _by_a_causal_mask(model, h, x):
    return h * h[torch.ones(8, 8).tril().bool()].sum()


def _by_a_mask_of_its_own(model, h, x):
    return h * h[:, model.mask].sum()


def _written_by_a_mask(model, h, x):
    out = h.clone()
    out[x[:, 0] > 0] = 0.5
    return out


def _in_known_classes(model, h, x):
    return h * F.one_hot(h.argmax(1), 8)


@pytest.mark.parametrize(
    "function", [_by_a_causal_mask, _by_a_mask_of_its_own, _written_by_a_mask, _in_known_classes]
)
@pytest.mark.parametrize("spec", SPECS[:2])
def test_sizes_that_do_not_depend_on_values_are_kept(function, spec):
    torch.manual_seed(0)
    step = steps_are_right(spec, Of(function).double(), given=batches())
    assert set(step.pushforward.settled.values()) == {""}


class Experts(nn.Module):
    """Each row goes to two of three layers, as its values say."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.router, self.head = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, CLASSES)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        h = torch.tanh(self.inner(x))
        shares, chosen = torch.topk(torch.softmax(self.router(h), -1), 2, -1)
        out = torch.zeros_like(h)
        for number, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == number)
            out.index_add_(0, rows, expert(h[rows]) * shares[rows, places, None])
        return self.head(h + out)


@pytest.mark.parametrize("spec", [*SPECS, "forward:structure=activity,layers=one"])
def test_experts_are_given_as_many_rows_as_a_batch_sends_them(spec):
    torch.manual_seed(0)
    steps_are_right(spec, Experts().double(), given=batches())


# ---- in place


class WithHidden(Of):
    """Gives the hidden values as well, so that a loss may have a second term."""

    def forward(self, x):
        h = torch.tanh(self.inner(x))
        return self.head(h), h


def _added(loss, h):
    loss += 0.1 * h.pow(2).mean()
    return loss


def _scaled(loss, h):
    loss *= 0.5
    return loss


def _divided(loss, h):
    loss /= 2
    return loss


def _divided_by_a_method(loss, h):
    return loss.div_(3)


def _seen_by_another_name(loss, h):
    total = loss
    total += h.sum()
    return loss


def _masked_if_not_finite(loss, h):
    loss.masked_fill_(loss.isnan(), 0.0)
    return loss.clamp_(max=100.0)


def _written(loss, h):
    loss[...] = h.square().mean()
    return loss


def _copied(loss, h):
    return loss.copy_(h.square().mean())


LOSSES = [
    _added,
    _scaled,
    _divided,
    _divided_by_a_method,
    _seen_by_another_name,
    _masked_if_not_finite,
    _written,
    _copied,
]


@pytest.mark.parametrize("spec", SPECS[:2])
@pytest.mark.parametrize("of", [F.cross_entropy, lambda o, y: F.mse_loss(o, F.one_hot(y, CLASSES).double())])
@pytest.mark.parametrize("change", LOSSES)
def test_a_loss_is_changed_in_place(change, of, spec):
    torch.manual_seed(0)
    steps_are_right(
        spec, WithHidden(_written).double(), lambda o, y: change(of(o[0], y), o[1]), given=batches()
    )


def _transposed(model, h, x):
    z = h.view(len(h), 2, 4).clone()
    z.transpose_(1, 2)
    return (z * torch.arange(1, 5).double()[:, None]).flatten(1)


def _swapped(model, h, x):
    z = h.view(len(h), 2, 4).clone()
    z.swapaxes_(1, 2)
    return (z * torch.arange(1, 5).double()[:, None]).flatten(1)


def _turned(model, h, x):
    z = h.clone()
    z.t_()
    return (z * torch.arange(1, 9).double()[:, None]).t()


def _with_one_more(model, h, x):
    z = h.clone()
    z.unsqueeze_(1).mul_(2)
    z.squeeze_(1)
    return z + 1


def _written_after_it_was_turned(model, h, x):
    z = h.clone()
    view = z[:, 0]
    z.t_()
    z[0] *= 3
    return z.t() + view[:, None]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "function", [_transposed, _swapped, _turned, _with_one_more, _written_after_it_was_turned]
)
def test_a_shape_is_changed_in_place(function, spec):
    torch.manual_seed(0)
    steps_are_right(spec, Of(function).double(), given=batches(3))


# ---- arrays of numpy

ARRAYS = {
    "a tensor of one": lambda model, h, x: h * torch.tensor(np.arange(8.0)),
    "one as a tensor": lambda model, h, x: h * torch.as_tensor(np.arange(8.0)),
    "one as an index": lambda model, h, x: h * h[:, np.array([0, 2, 4])].sum(),
    "two as indices apart": lambda model, h, x: (
        h * h.view(8, 2, 4)[np.arange(8), :, np.arange(8) % 4].sum(1)[:, None]
    ),
    "one as a mask": lambda model, h, x: h * h[:, np.arange(8) % 3 == 0].sum(),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_numpy_are_like_numbers(name, spec):
    torch.manual_seed(0)
    step = steps_are_right(spec, Of(ARRAYS[name]).double(), given=batches(3))
    assert set(step.pushforward.settled.values()) == {""}
