"""Structures of tangents: the distribution of their entries, and how they are drawn.

In every structure a tangent's entries have mean 0 and variance 1 and are uncorrelated, so that (∇f·v) v is
an unbiased estimate of ∇f. Random numbers come from generators of their own, never from torch's global one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fgbench.pushforward.tangents import Full, RankOne, Redrawn, Tangent

LINE = 16  # numbers in a cache line: 64 bytes of float32
FEW = 2**16  # numbers that are filled in one go: a byte for each of them is little memory
FULL_STRUCTURES = ("gaussian", "rademacher", "sphere", "orthonormal", "fixed-angle")


@dataclass(frozen=True)
class Tangents:
    """k tangents of all parameters together.

    Attributes:
        by_name: what was drawn for each parameter.
        mixing: [k, k] in float64; tangent i is Σ_j mixing[i, j] · drawn j. None for the identity. It sets
            lengths and angles over all parameters without a pass over the entries.
    """

    by_name: Mapping[str, Tangent]
    mixing: Tensor | None = None

    @property
    def count(self) -> int:
        """k."""
        return next(iter(self.by_name.values())).count

    def directional(self, drawn: Tensor) -> Tensor:
        """Derivatives along the tangents, [k], from the derivatives along what was drawn, [k]."""
        return drawn if self.mixing is None else (self.mixing @ drawn.double()).to(drawn.dtype)

    def onto_drawn(self, coefficients: Tensor) -> Tensor:
        """Coefficients of what was drawn, [k], from the coefficients of the tangents, [k]."""
        if self.mixing is None:
            return coefficients
        return (coefficients.double() @ self.mixing).to(coefficients.dtype)

    def gram(self) -> Tensor:
        """The tangents' inner products over all parameters, [k, k] in float64."""
        drawn = _gram(self.by_name)
        return drawn if self.mixing is None else self.mixing @ drawn @ self.mixing.t()

    def full(self) -> list[Tensor]:
        """The tangents of each parameter, [k, *shape]."""
        drawn = [t.full() for t in self.by_name.values()]
        if self.mixing is None:
            return drawn
        return [torch.tensordot(self.mixing.to(d.dtype), d, dims=1) for d in drawn]


def _gram(by_name: Mapping[str, Tangent]) -> Tensor:
    return torch.stack([t.gram() for t in by_name.values()]).sum(0)


class Drawer:
    """Draws k tangents a step, for parameters of given shapes.

    Args:
        parameters: by name.
        count: k.
        structure: `gaussian`, `rademacher`, `sphere` (length √n), `rank-one`, `orthonormal` (at right
            angles to each other, each of length √n) or `fixed-angle` (each at one angle to the first;
            Flügel et al. 2024, §4.3).
        entries: `gaussian` or `rademacher`, for rank-one factors and parameters of one dimension.
        angle: in degrees, for `fixed-angle`.
        seed: decides all that is drawn.
        keep: keep full tangents in memory until the update; if not, they are drawn again from seeds.
        together: put full tangents into one buffer, which few launches fill; if not, each into its own.

    Raises:
        NotImplementedError: a parameter is complex.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        count: int,
        structure: str,
        seed: int,
        *,
        entries: str = "rademacher",
        angle: float = 90.0,
        keep: bool = True,
        together: bool = True,
    ) -> None:
        found = next((name for name, p in parameters.items() if p.is_complex()), None)
        if found is not None:
            raise NotImplementedError(
                f"tangents of complex parameters, as '{found}' is: hold its real and imaginary parts in a "
                "real parameter, and take torch.view_as_complex of it."
            )
        self.parameters, self.count, self.structure, self.angle = dict(parameters), count, structure, angle
        self.together = together
        self.size = sum(p.numel() for p in self.parameters.values())
        first = next(iter(self.parameters.values()))
        self.generator = torch.Generator(first.device).manual_seed(seed)
        self.fill = Fill(entries if structure == "rank-one" else "gaussian", self.generator)
        if structure == "rademacher":
            self.fill = Fill("rademacher", self.generator)
        self.freedom = self.size  # independent numbers in a tangent
        if structure == "rank-one":
            self.freedom = sum(sum(_factors(p)) for p in self.parameters.values())
        self.keep = keep or structure == "rank-one"
        self.seeds = torch.Generator().manual_seed(seed)
        self.buffers: list[Tensor] = []
        self.kept: dict[str, Tangent] = {}

    @property
    def generators(self) -> list[torch.Generator]:
        """The generators that the next draw depends on: that of the entries, or of their seeds."""
        return [self.generator if self.keep else self.seeds]

    def draw(self) -> Tangents:
        """Draw the next step's tangents; the memory of the last step's is used again."""
        if not self.keep:
            drawn: dict[str, Tangent] = {n: self._redrawn(p) for n, p in self.parameters.items()}
        else:
            if not self.kept:
                self.buffers, self.kept = self._memory(self.parameters)
            for buffer in self.buffers:
                self.fill(buffer)
            drawn = self.kept
        return self._mixed(drawn, self.size)

    def draw_rows(self, rows: Mapping[str, range]) -> Tangents:
        """Draw the next step's tangents of some parameters alone, in memory of their own.

        Args:
            rows: by parameter name, which of the k tangents are drawn; the others are zero.
        """
        some = {name: self.parameters[name] for name in rows}
        if not self.keep:
            drawn: dict[str, Tangent] = {n: self._redrawn(p, rows[n]) for n, p in some.items()}
        else:
            buffers, drawn = self._memory(some)
            if self.count == 1:
                for buffer in buffers:
                    self.fill(buffer)
            else:
                for name, tangent in drawn.items():
                    for part in vars(tangent).values():
                        _fill_rows(self.fill, part.zero_(), rows[name])
        if self.structure not in MIXINGS:
            return Tangents(drawn)
        device = next(iter(some.values())).device
        sizes = torch.zeros(self.count, dtype=torch.float64, device=device)
        for name, parameter in some.items():
            sizes[rows[name].start : rows[name].stop] += parameter.numel()
        return self._mixed(drawn, sizes)

    def _mixed(self, drawn: Mapping[str, Tangent], size: float | Tensor) -> Tangents:
        """Apply the structure's lengths and angles; `size`: entries in each tangent, one number or [k]."""
        mixing = MIXINGS.get(self.structure)
        if mixing is None:
            return Tangents(drawn)
        return Tangents(drawn, mixing(_gram(drawn), size, self.angle))

    def _redrawn(self, parameter: Tensor, rows: range | None = None) -> Tangent:
        shape, seed = (self.count, *parameter.shape), int(torch.randint(2**62, (), generator=self.seeds))

        def again() -> Tensor:
            self.generator.manual_seed(seed)
            if rows is None or len(rows) == self.count:
                return self.fill(parameter.new_empty(shape, requires_grad=False))
            return _fill_rows(self.fill, parameter.new_zeros(shape, requires_grad=False), rows)

        return Redrawn(again, self.count)

    def _memory(self, parameters: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tangent]]:
        """Allocate buffers to fill, and the tangents that are views of them."""
        return self._factored(parameters) if self.structure == "rank-one" else self._whole(parameters)

    def _whole(self, parameters: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tangent]]:
        """Full tangents: one buffer for each dtype, or one for each parameter."""
        if not self.together:
            own = {n: p.new_empty((self.count, *p.shape), requires_grad=False) for n, p in parameters.items()}
            return list(own.values()), {n: Full(buffer) for n, buffer in own.items()}
        buffers: list[Tensor] = []
        entries: dict[str, Tensor] = {}
        for own in _by_dtype(parameters):
            shapes = [(self.count, *p.shape) for p in own.values()]
            filled, views = self.fill.room(shapes, next(iter(own.values())))
            buffers += filled
            entries |= zip(own, views, strict=True)
        return buffers, {name: Full(entries[name]) for name in parameters}

    def _factored(self, parameters: Mapping[str, Tensor]) -> tuple[list[Tensor], dict[str, Tangent]]:
        """Rank-one tangents: all factors of a dtype are in one buffer, which a single draw fills."""
        buffers: list[Tensor] = []
        factored: dict[str, Tangent] = {}
        for own in _by_dtype(parameters):
            sizes = [self.count * n for p in own.values() for n in _factors(p)]
            buffers.append(next(iter(own.values())).new_empty(sum(sizes), requires_grad=False))
            pieces = iter(buffers[-1].split(sizes))
            factored |= {
                n: _tangent_of_factors(p, self.count, next(pieces), next(pieces)) for n, p in own.items()
            }
        return buffers, {name: factored[name] for name in parameters}


def _by_dtype(parameters: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The parameters in groups of one dtype each."""
    dtypes = dict.fromkeys(p.dtype for p in parameters.values())
    return [{n: p for n, p in parameters.items() if p.dtype == dtype} for dtype in dtypes]


def _fill_rows(fill: Fill, tensor: Tensor, rows: range) -> Tensor:
    """Fill these rows of the first dimension in place."""
    fill(tensor[rows.start : rows.stop])
    return tensor


def _tangent_of_factors(parameter: Tensor, count: int, left: Tensor, right: Tensor) -> Tangent:
    if not len(left):
        return Full(right.view(count, *parameter.shape))
    return RankOne(left.view(count, -1), right.view(count, *parameter.shape[1:]))


def _factors(parameter: Tensor) -> tuple[int, int]:
    """The sizes of a parameter's two factors; for a vector 0, and all its entries."""
    if parameter.dim() < 2 or parameter.shape[0] == 1 or not parameter.numel():
        return 0, parameter.numel()
    return parameter.shape[0], parameter[0].numel()


class Fill:
    """Fills a tensor with independent entries of mean 0 and variance 1."""

    def __init__(self, entries: str, generator: torch.Generator) -> None:
        self.entries, self.generator = entries, generator
        self.words: Tensor | None = None
        self.views: dict[torch.Size, tuple[Tensor, Tensor]] = {}

    def room(self, shapes: Sequence[Sequence[int]], like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Allocate memory for several tensors in one piece, so that few launches fill it.

        Returns:
            The pieces to fill, and views of the given shapes, each of which begins at a cache line. For
            signs a piece is no larger than the largest shape, as random bits take a byte an entry.
        """
        sizes = [-(-math.prod(shape) // LINE) * LINE for shape in shapes]
        whole = like.new_empty(sum(sizes), requires_grad=False)
        pieces = zip(whole.split(sizes), shapes, strict=True)
        views = [piece[: math.prod(shape)].view(*shape) for piece, shape in pieces]
        return [whole] if self.entries == "gaussian" else list(whole.split(max(FEW, *sizes))), views

    def __call__(self, tensor: Tensor) -> Tensor:
        """Fill a tensor in place, and give it."""
        if self.entries == "gaussian":
            if _coarse(tensor.dtype) and tensor.device.type == "cpu":  # in this order, as steps are timed
                return tensor.copy_(torch.empty(tensor.shape).normal_(generator=self.generator))
            return tensor.normal_(generator=self.generator)
        # One random bit is taken from each random byte: a quarter of the time of drawing floats.
        if tensor.shape not in self.views:
            self.views[tensor.shape] = self._room_for_bits(tensor)
        words, signs = self.views[tensor.shape]
        words.random_(generator=self.generator)
        return tensor.copy_(signs.bitwise_and_(2).sub_(1))

    def _room_for_bits(self, tensor: Tensor) -> tuple[Tensor, Tensor]:
        """Room for random words, and their bytes in the tensor's shape; all tensors share this memory."""
        count = -(-tensor.numel() // 8)
        if self.words is None or len(self.words) < count:
            self.views.clear()
            self.words = torch.empty(count, dtype=torch.int64, device=tensor.device)
        words = self.words[:count]
        return words, words.view(torch.int8)[: tensor.numel()].view(tensor.shape)


@cache
def _coarse(dtype: torch.dtype) -> bool:
    """Whether a CPU draws normal numbers in 16 bits, as PyTorch 2.11 does: their variance is 0.987."""
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    own, fine = (
        torch.empty(64, dtype=d).normal_(generator=torch.Generator().manual_seed(0))
        for d in (dtype, torch.float32)
    )
    return not torch.equal(own, fine.to(dtype))


def cholesky(gram: Tensor) -> Tensor:
    """The lower factor of a Gram matrix, [..., k, k], without the host waiting for it.

    `torch.linalg.cholesky` waits for the device to say whether the matrix is positive definite; here the
    factor is NaN where it is not, and the loss shows that.
    """
    factor, info = torch.linalg.cholesky_ex(gram)
    return torch.where(info[..., None, None] == 0, factor, torch.nan)


def _sphere(gram: Tensor, size: float | Tensor, angle: float) -> Tensor:
    """Scale each tangent to length √n."""
    return torch.diag(size**0.5 * gram.diagonal().rsqrt())


def _orthonormal(gram: Tensor, size: float | Tensor, angle: float) -> Tensor:
    """Gram–Schmidt by the Cholesky factor, then length √n."""
    factor = cholesky(gram)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return size**0.5 * torch.linalg.solve_triangular(factor, identity, upper=False)


def _fixed_angle(gram: Tensor, size: float | Tensor, angle: float) -> Tensor:
    """cos α · v_1 + sin α · (the part of v_i at right angles to v_1), each of length √n."""
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    along = gram[0] / gram[0, 0]
    aside = identity - along.unsqueeze(1) * identity[0]
    aside[0] = 0
    length = (gram.diagonal() - along * gram[0]).clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
    turn = math.radians(angle)
    mixing = math.sin(turn) * aside / length.unsqueeze(1)
    mixing += math.cos(turn) * identity[0] / gram[0, 0].sqrt()
    mixing[0] = identity[0] / gram[0, 0].sqrt()
    return size**0.5 * mixing


Mixing = Callable[[Tensor, float | Tensor, float], Tensor]
MIXINGS: dict[str, Mixing] = {"sphere": _sphere, "orthonormal": _orthonormal, "fixed-angle": _fixed_angle}


def squared_length(structure: str, entries: str, size: int, count: int) -> float | None:
    """E‖mean of k forward gradients‖² / ‖∇f‖² for n parameters; None where it depends on the gradient.

    (n + k + 1)/k for Gaussian entries; (n + k − 1)/k for ±1, the sphere and rank-one ±1; n/k for
    orthonormal tangents.
    """
    if structure == "gaussian":
        return (size + count + 1) / count
    if structure in ("rademacher", "sphere") or (structure == "rank-one" and entries == "rademacher"):
        return (size + count - 1) / count
    return size / count if structure == "orthonormal" else None
