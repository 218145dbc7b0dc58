"""Which dimension of a layer's output counts the samples of a batch; found by changing one sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fgbench.pushforward.watch import looks

HALVINGS = 2  # of a batch; each takes two passes
FILLING = 0.1  # the standard deviation of what stands in for zeros


@dataclass(frozen=True)
class Layout:
    """Where samples are in the output of an operation.

    Attributes:
        dim: the dimension that counts them, alone or merged with another dimension.
        outer: whether the samples are the outer part of a merged dimension.
    """

    dim: int = 0
    outer: bool = True

    def spread(self, weights: Tensor, shape: torch.Size) -> Tensor:
        """Reshape the samples' weights, [k, B], so that they broadcast to [k, *shape]."""
        rows, samples = shape[self.dim], weights.shape[1]
        if rows != samples and samples > 1:
            times = rows // samples
            weights = weights.repeat_interleave(times, 1) if self.outer else weights.repeat(1, times)
        sizes = [1] * len(shape)
        sizes[self.dim] = weights.shape[1]
        return weights.view(len(weights), *sizes)

    def gathered(self, products: Tensor, samples: int) -> Tensor:
        """Sum [k, *shape] over the entries of each sample, to [k, B]."""
        rows = products.movedim(self.dim + 1, 1).flatten(2).sum(2) if products.dim() > 2 else products
        parted = rows.unflatten(1, (samples, -1) if self.outer else (-1, samples))
        return parted.sum(2 if self.outer else 1)

    def by_sample(self, tensor: Tensor, samples: int, before: int = 0) -> Tensor:
        """[B, rows of a sample, …] of [*shape], behind as many other dimensions as come `before`."""
        rows = tensor.movedim(self.dim + before, before)
        parted = rows.unflatten(before, (samples, -1) if self.outer else (-1, samples))
        return parted if self.outer else parted.transpose(before, before + 1)

    def of_one(self, shape: torch.Size, samples: int) -> list[int]:
        """The shape of one sample's part of [*shape]; the dimension that counts samples stays."""
        return [rows // samples if dim == self.dim else rows for dim, rows in enumerate(shape)]

    def for_all(self, one: Tensor, samples: int) -> Tensor:
        """[k, *shape] in which each sample has the same part; without a copy where a sample is one row."""
        at = self.dim + (1 if self.outer else 2)
        sizes = [-1] * (one.dim() + 1)
        sizes[at] = samples
        return one.unsqueeze(at).expand(sizes).flatten(self.dim + 1, self.dim + 2)


LAYOUTS = Layout(0), Layout(1), Layout(0, outer=False)


@contextmanager
def zeros_filled(model: nn.Module) -> Iterator[None]:
    """Meanwhile, trained parameters that are wholly zero hold small random numbers.

    What a gate or a head lets through once it is trained cannot be seen behind zeros.
    """
    zeros = [p.detach() for p in model.parameters() if p.requires_grad and not p.any()]
    before = [zero.clone() for zero in zeros]  # some may be -0
    try:
        for seed, zero in enumerate(zeros):
            zero.normal_(0, FILLING, generator=torch.Generator(zero.device).manual_seed(seed))
        yield
    finally:
        for zero, value in zip(zeros, before, strict=True):
            zero.copy_(value)


def layouts(run: Callable[[Tensor], tuple[list[Tensor], Any]], x: Tensor) -> dict[int, Layout] | None:
    """The layout of samples in the output of each operation, by the operation's number.

    Args:
        run: gives the outputs of all operations, and the model's output, for an input.
        x: an input, [B, …].

    Returns:
        A layout for each operation that depends on the input. None if a sample's output depends on other
        samples, as through batch statistics, or if that cannot be told.
    """
    if len(x) < 2:
        return None
    before, output = run(x)
    after, changed = run(_with_another_first(x))
    pairs = list(zip(_tensors(output), _tensors(changed), strict=False))
    if len(before) != len(after) or not pairs:
        return None
    for one, other in pairs:
        if _layout(one, other, len(x)) != Layout():
            return None
    found = {}
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        layout = _layout(one, other, len(x))
        if layout is not None:
            found[number] = layout
        elif one.shape != other.shape or not torch.equal(one, other):
            return None  # one sample reaches the others' entries
    return found


def layout_of_rows(run: Callable[[Tensor], Tensor], samples: int, device: torch.device) -> Layout | None:
    """The layout of samples in the rows of a loss, found by moving half of the samples, and the other half.

    This is done for two ways to halve the batch, drawn at random, so that three pairs of samples in four are
    told apart: it finds also what a look at one sample does not, such as a mask by which this sample is left
    out of a mean over the batch.

    Args:
        run: gives the loss's derivatives by row, [1, rows], where the samples marked in a mask, [B], move.
        samples: B.
        device: where the masks are made.

    Returns:
        None if a sample moves the rows of others, if no row moves, or if values decide how many rows there
        are: those of another batch may belong to the samples in another way.
    """
    numbers = torch.randperm(samples, generator=torch.Generator().manual_seed(0)).to(device)
    strays = {Layout(): numbers.new_zeros(()), Layout(outer=False): numbers.new_zeros(())}
    moves = numbers.new_zeros(())
    for bit in range(min(HALVINGS, (samples - 1).bit_length())):
        for side in (0, 1):
            some = (numbers >> bit & 1) == side
            with _Shapes() as shapes:
                moved = run(some).ne(0).long()
            if shapes.decided or not moved.shape[1] or moved.shape[1] % samples:
                return None
            moves += moved.sum()
            for layout in strays:
                strays[layout] += (layout.gathered(moved, samples)[0] * ~some).sum()
    fitting = [layout for layout, count in strays.items() if not count]
    return fitting[0] if fitting and moves else None


class _Shapes(TorchDispatchMode):
    """While in force, notes whether values decide the shape of a result.

    Attributes:
        decided: whether they did, as where a mask picks entries.
    """

    supports_higher_order_operators = True
    decided = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shaping = torch.Tag.dynamic_output_shape in getattr(func, "tags", ())
        self.decided = self.decided or (shaping and looks(func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _with_another_first(x: Tensor) -> Tensor:
    changed = x.clone()
    changed[0] = 0.7 * x[0] + 0.1 if x.is_floating_point() else x[1:].flip(0)[0]
    if torch.equal(changed, x):
        others = (x != x[0]).flatten(1).any(1).nonzero()
        changed[0] = x[others[0, 0]] if len(others) else x[0]
    return changed


def _tensors(output: Any) -> list[Tensor]:
    leaves = [getattr(leaf, "primal", leaf) for leaf in tree_leaves(output)]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _layout(one: Tensor, other: Tensor, samples: int) -> Layout | None:
    if one.shape != other.shape:
        return None
    moved = one != other
    if not moved.any():
        return None
    for layout in LAYOUTS:
        if layout.dim >= moved.dim() or moved.shape[layout.dim] % samples:
            continue
        if layout.dim == 1 and moved.shape[1] != samples:
            continue
        rows = moved.movedim(layout.dim, 0).flatten(1).any(1) if moved.dim() > 1 else moved
        parted = rows.unflatten(0, (samples, -1) if layout.outer else (-1, samples))
        others = parted[1:] if layout.outer else parted[:, 1:]
        if not others.any():
            return layout
    return None
