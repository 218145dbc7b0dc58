"""Functions that rearrange entries or add them up; they act on the stack, one dimension further on."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, moving, primal_of
from fgbench.pushforward.rules import RULES, NoRuleError, rule


def on_stack(dim: int, of: Dual, more: int = 0) -> int:
    """The dimension of the stack for a dimension of the value; `more` dimensions are about to be added.

    Raises:
        NoRuleError: the value is a single number, which has a first and a last dimension for torch alone.
    """
    dims = of.stack.dim() - 1 + more
    if not dims:
        raise NoRuleError("a single number")
    return dim % dims + 1


def sizes_of(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes or dimensions, which torch takes one by one or as one tuple."""
    return tuple(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else given


@rule("view")
def view(context: Context, x: Dual, *shape: Any, dtype: Any = None) -> Dual:
    """The same entries in another shape; another dtype has no rule."""
    if dtype is not None or any(isinstance(s, torch.dtype) for s in shape):
        raise NoRuleError("bits")
    sizes = len(x.stack), *sizes_of(shape)
    try:
        return Dual(x.stack.view(sizes))
    except RuntimeError:  # the value alone could be viewed like this, but not the stack
        return Dual(x.stack.reshape(sizes))


@rule("reshape")
def reshape(context: Context, x: Dual, *shape: Any, **named: Any) -> Dual:
    """The same entries in another shape."""
    return Dual(x.stack.reshape(len(x.stack), *sizes_of((*shape, *named.values()))))


@rule("view_as", "reshape_as")
def view_as(context: Context, x: Any, other: Any) -> Any:
    """The same entries in the shape of another tensor."""
    if not isinstance(x, Dual):
        return x.reshape(primal_of(other).shape)
    return Dual(x.stack.reshape(len(x.stack), *primal_of(other).shape))


@rule("flatten")
def flatten(context: Context, x: Dual, start_dim: int = 0, end_dim: int = -1) -> Dual:
    """Merge several dimensions into one."""
    if x.stack.dim() == 1:
        return Dual(x.stack.unsqueeze(1))
    return Dual(x.stack.flatten(on_stack(start_dim, x), on_stack(end_dim, x)))


@rule("unflatten")
def unflatten(context: Context, x: Dual, dim: int, sizes: Any) -> Dual:
    """Split one dimension into several."""
    return Dual(x.stack.unflatten(on_stack(dim, x), sizes))


@rule("permute")
def permute(context: Context, x: Dual, *dims: Any, **named: Any) -> Dual:
    """Put the dimensions into another order."""
    order = sizes_of((*dims, *named.values()))
    return Dual(x.stack.permute(0, *(on_stack(d, x) for d in order)))


@rule("transpose", "swapaxes", "swapdims", "transpose_", "swapaxes_", "swapdims_")
def transpose(context: Context, x: Dual, dim0: int, dim1: int) -> Dual:
    """Exchange two dimensions."""
    return Dual(x.stack.transpose(on_stack(dim0, x), on_stack(dim1, x)))


@rule("t", "t_")
def t(context: Context, x: Dual) -> Dual:
    """Transpose a matrix, or as `T` put any dimensions into the reverse order; a vector stays as it is."""
    return Dual(x.stack.permute(0, *range(x.stack.dim() - 1, 0, -1)))


def mt(context: Context, x: Dual) -> Dual:
    """Transpose each matrix of a stack."""
    return Dual(x.stack.transpose(-2, -1))


def mh(context: Context, x: Dual) -> Dual:
    """Transpose each matrix of a stack, and conjugate it if it is complex."""
    return Dual(x.stack.mH if x.stack.dim() > 2 else x.stack.conj())


for _turned, _by in {"T": t, "H": mh, "mT": mt, "mH": mh}.items():
    RULES[getattr(Tensor, _turned).__get__] = _by


@rule("movedim", "moveaxis")
def movedim(context: Context, x: Dual, source: Any, destination: Any) -> Dual:
    """Move dimensions to other places."""

    def on(dims: Any) -> Any:
        return [on_stack(d, x) for d in dims] if isinstance(dims, tuple | list) else on_stack(dims, x)

    return Dual(x.stack.movedim(on(source), on(destination)))


@rule("unsqueeze", "unsqueeze_")
def unsqueeze(context: Context, x: Dual, dim: int) -> Dual:
    """Insert a dimension of size one."""
    return Dual(x.stack.unsqueeze(on_stack(dim, x, more=1)))


@rule("squeeze", "squeeze_")
def squeeze(context: Context, x: Dual, dim: Any = None) -> Dual:
    """Remove dimensions of size one."""
    dims = range(x.stack.dim() - 1) if dim is None else dim if isinstance(dim, tuple | list) else (dim,)
    return Dual(x.stack.squeeze(tuple(on_stack(d, x) for d in dims)))


@rule("expand", "broadcast_to")
def expand(context: Context, x: Dual, *sizes: Any) -> Dual:
    """Broadcast to a shape, without a copy."""
    shape = sizes_of(sizes)
    missing = len(shape) - x.stack.dim() + 1
    stack = x.stack.reshape(len(x.stack), *[1] * missing, *x.stack.shape[1:]) if missing else x.stack
    return Dual(stack.expand(-1, *shape))


@rule("expand_as")
def expand_as(context: Context, x: Any, other: Any) -> Any:
    """Broadcast to the shape of another tensor, without a copy."""
    shape = primal_of(other).shape
    return expand(context, x, *shape) if isinstance(x, Dual) else x.expand(shape)


@rule("repeat")
def repeat(context: Context, x: Dual, *times: Any) -> Dual:
    """Repeat the whole tensor along its dimensions."""
    shape = sizes_of(times)
    missing = len(shape) - x.stack.dim() + 1
    stack = x.stack.reshape(len(x.stack), *[1] * missing, *x.stack.shape[1:]) if missing else x.stack
    return Dual(stack.repeat(1, *shape))


@rule("repeat_interleave")
def repeat_interleave(context: Context, x: Dual, repeats: Any, dim: Any = None, **more: Any) -> Dual:
    """Repeat each entry along a dimension."""
    if dim is None:
        raise NoRuleError("of all entries")
    return Dual(x.stack.repeat_interleave(repeats, on_stack(dim, x), **more))


@rule("clone")
def same(context: Context, x: Dual, *, memory_format: Any = torch.contiguous_format) -> Dual:
    """A copy, in a memory format."""
    if memory_format in (torch.contiguous_format, torch.preserve_format):
        return Dual(x.stack.clone(memory_format=memory_format))
    return Dual(torch.stack([s.contiguous(memory_format=memory_format) for s in x.stack]))


@rule("contiguous")
def contiguous(context: Context, x: Dual, memory_format: Any = torch.contiguous_format) -> Dual:
    """The same entries, contiguous in a memory format; copied where they are not."""
    if memory_format != torch.contiguous_format:
        return same(context, x, memory_format=memory_format)
    # Where torch copies no value, the stack must not be copied either: the model may write into it.
    return Dual(x.stack if x.primal.is_contiguous() else x.stack.contiguous())


def _converting(name: str) -> None:
    convert = getattr(Tensor, name)

    def converted(context: Context, x: Any, *given: Any, **options: Any) -> Any:
        bare = tuple(primal_of(g) for g in given)
        options.pop("memory_format", None)
        if not isinstance(x, Dual):
            return convert(x, *bare, **options)
        stack = convert(x.stack, *bare, **options)
        if isinstance(stack, str):
            return stack
        return Dual(stack) if stack.is_floating_point() or stack.is_complex() else stack[0]

    rule(name)(converted)


for _name in ["to", "type", "float", "double", "half", "bfloat16", "type_as", "cpu", "cuda"]:
    _converting(_name)


@rule("chunk")
def chunk(context: Context, x: Dual, chunks: int, dim: int = 0) -> tuple[Dual, ...]:
    """Split into a number of pieces."""
    return tuple(map(Dual, x.stack.chunk(chunks, on_stack(dim, x))))


@rule("split", "split_with_sizes")
def split(context: Context, x: Dual, split_size: Any, dim: int = 0) -> tuple[Dual, ...]:
    """Split into pieces of given sizes."""
    return tuple(map(Dual, x.stack.split(split_size, on_stack(dim, x))))


@rule("unbind")
def unbind(context: Context, x: Dual, dim: int = 0) -> tuple[Dual, ...]:
    """Split along a dimension, which is removed."""
    return tuple(map(Dual, x.stack.unbind(on_stack(dim, x))))


@rule("narrow")
def narrow(context: Context, x: Dual, dim: int, start: Any, length: int) -> Dual:
    """A range of entries along a dimension."""
    return Dual(x.stack.narrow(on_stack(dim, x), start, length))


@rule("select")
def select(context: Context, x: Dual, dim: int, index: int) -> Dual:
    """One entry along a dimension, which is removed."""
    return Dual(x.stack.select(on_stack(dim, x), index))


@rule("index_select")
def index_select(context: Context, x: Dual, dim: int, index: Tensor) -> Dual:
    """Several entries along a dimension."""
    return Dual(x.stack.index_select(on_stack(dim, x), index))


@rule("gather")
def gather(context: Context, x: Dual, dim: int, index: Tensor, **options: Any) -> Dual:
    """Pick entries by their index along a dimension."""
    return Dual(x.stack.gather(on_stack(dim, x), index.expand(len(x.stack), *index.shape)))


@rule("roll")
def roll(context: Context, x: Dual, shifts: Any, dims: Any = None) -> Dual:
    """Shift entries along dimensions; those pushed out come in at the other end."""
    if dims is None:
        return Dual(torch.stack([s.roll(shifts) for s in x.stack]))
    return Dual(x.stack.roll(shifts, tuple(on_stack(d, x) for d in sizes_of((dims,)))))


@rule("flip")
def flip(context: Context, x: Dual, *dims: Any) -> Dual:
    """Reverse the order of entries along dimensions."""
    return Dual(x.stack.flip(tuple(on_stack(d, x) for d in sizes_of(dims))))


for _triangle_name in ("tril", "triu"):
    rule(_triangle_name)(
        lambda context, x, diagonal=0, name=_triangle_name: Dual(getattr(x.stack, name)(diagonal))
    )


def _reduction(name: str) -> None:
    reduce = getattr(torch, name)

    def reduced(
        context: Context, x: Dual, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
    ) -> Dual:
        dims = sizes_of((dim,)) if dim is not None and dim != () else range(x.stack.dim() - 1)
        if x.stack.dim() == 1:  # of a scalar; over no dimension torch would add up the stack
            return Dual(x.stack if dtype is None else x.stack.to(dtype))
        return Dual(reduce(x.stack, tuple(on_stack(d, x) for d in dims), keepdim, dtype=dtype))

    rule(name)(reduced)


_reduction("sum")
_reduction("mean")


@rule("cumsum")
def cumsum(context: Context, x: Dual, dim: int, **options: Any) -> Dual:
    """Cumulative sums along a dimension."""
    return Dual(x.stack.cumsum(on_stack(dim, x), **options))


@rule("cat", "concat", "concatenate")
def cat(context: Context, tensors: Any, dim: int = 0) -> Dual:
    """Join tensors along a dimension."""
    filled = [x for x in tensors if isinstance(x, Dual) or x.shape != (0,)]  # torch skips empty ones too
    duals = [moving(x, context.count) for x in filled]
    if len(duals) == 1:  # compiled, torch.cat of one tensor would lie in memory as that does
        return Dual(duals[0].stack.clone(memory_format=torch.contiguous_format), spare=True)
    return Dual(torch.cat([d.stack for d in duals], on_stack(dim, duals[0])), spare=True)


@rule("stack")
def stack(context: Context, tensors: Any, dim: int = 0) -> Dual:
    """Join tensors along a new dimension."""
    duals = [moving(x, context.count) for x in tensors]
    return Dual(torch.stack([d.stack for d in duals], on_stack(dim, duals[0], more=1)), spare=True)


@rule("pad")
def pad(context: Context, x: Dual, pad: Any, mode: str = "constant", value: Any = None) -> Dual:
    """Pad; entries padded with a number have tangents of zero."""
    if mode != "constant":
        if x.stack.dim() == len(pad) // 2 + 1:
            raise NoRuleError("no batch")
        merged = F.pad(x.stack.flatten(0, 1), pad, mode)
        return Dual(merged.unflatten(0, x.stack.shape[:2]))
    out = F.pad(x.stack, pad)
    if value:
        out[0] = F.pad(x.stack[0], pad, value=value)
    return Dual(out, spare=True)


@rule("einsum")
def einsum(context: Context, equation: Any, *given: Any) -> Dual:
    """Linear in each operand: the tangents are a sum over the operands that have some."""
    operands = list(given[0]) if len(given) == 1 and isinstance(given[0], tuple | list) else list(given)
    if not isinstance(equation, str) or "->" not in equation:
        raise NoRuleError("another notation")
    inputs, output = equation.replace(" ", "").split("->")
    terms = inputs.split(",")
    free = next(c for c in "zyxwvutsrqponmlkjihgfedcbaZYX" if c not in equation)
    still = [primal_of(x) for x in operands]
    movers = [i for i, x in enumerate(operands) if isinstance(x, Dual)]

    def along(place: int, part: Tensor) -> Tensor:
        named = [free + term if i == place else term for i, term in enumerate(terms)]
        return torch.einsum(
            f"{','.join(named)}->{free}{output}", *(part if i == place else x for i, x in enumerate(still))
        )

    if len(movers) == 1:
        return Dual(along(movers[0], operands[movers[0]].stack))
    tangents = along(movers[0], operands[movers[0]].tangents)
    for place in movers[1:]:
        tangents = tangents + along(place, operands[place].tangents)
    return Dual(torch.cat([torch.einsum(equation, *still).unsqueeze(0), tangents]))


@rule("__iter__")
def iterate(context: Context, x: Dual) -> Any:
    """Iterate over the first dimension."""
    return unbind(context, x, 0)
