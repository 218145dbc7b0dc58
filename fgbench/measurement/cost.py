"""Count what a piece of work costs on any machine: FLOPs, bytes that have to move, operations started."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.module_tracker import ModuleTracker

# These operations make a tensor without writing to it, and so start nothing on the device.
FREE = ("empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "lift_fresh")
PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "addbmm", "addbmm_")
COUNTS = ("flops", "bytes", "operations", "product_bytes", "other_bytes", "random_numbers")
# These operations write a tensor without reading what is in it.
FILLS = ("normal_", "uniform_", "random_", "bernoulli_", "zero_", "fill_", "copy_")

Shape = tuple[int, int, int]


@dataclass(frozen=True, order=True)
class Convolution:
    """One that a piece of work does.

    Attributes:
        inputs: the shape of a sample, without the batch.
        weight: the shape of the weights.
        options: stride, padding, dilation, whether it is transposed, output padding, groups.
    """

    inputs: tuple[int, ...]
    weight: tuple[int, ...]
    options: tuple[Any, ...]

    @classmethod
    def of(cls, inputs: Tensor, weight: Tensor, _bias: Tensor | None, *options: Any) -> Convolution:
        """That of the arguments of aten's `convolution`."""
        fixed = tuple(tuple(option) if isinstance(option, list) else option for option in options)
        return cls(tuple(inputs.shape[1:]), tuple(weight.shape), fixed)


@dataclass(frozen=True)
class Work:
    """The counts of a piece of work.

    Attributes:
        flops: those of products, convolutions and attention; a multiplication and an addition are two.
        bytes: the least that has to move: every tensor that existed before and is read, once, and every
            such tensor that is written, once. Tensors made on the way might stay in a cache.
        operations: how many were started one by one; views and empty tensors do not count.
        products: the shapes (rows, inner, columns) of its matrix products.
        convolutions: those that it does forward, each with the largest batch among its uses.
        product_bytes: what products, convolutions and attention read and write, summed over operations.
        other_bytes: the same for all other operations; all of it moves if there is no cache or fusion.
        random_numbers: how many were drawn.
    """

    flops: int
    bytes: int
    operations: int
    products: frozenset[Shape]
    convolutions: Mapping[Convolution, int] = field(default_factory=dict)
    product_bytes: int = 0
    other_bytes: int = 0
    random_numbers: int = 0


def _added_product(_into: Any, a: Any, b: Any, **_options: Any) -> int:
    """FLOPs of a product that is added to something: 2 · batches (or 1) · rows · inner · columns."""
    batches = a[0] if len(a) == 3 else 1
    return int(2 * batches * a[-2] * a[-1] * b[-1])


def _attention(query: Any, key: Any, value: Any, *_more: Any, **_options: Any) -> int:
    """q kᵀ and P v, of [batches, heads, length, features]."""
    *batches, rows, features = query
    return int(2 * math.prod(batches) * rows * key[-2] * (features + value[-1]))


def _attention_backward(_slope: Any, query: Any, key: Any, value: Any, *_more: Any, **_options: Any) -> int:
    """Five products: q kᵀ again, and two each for the slopes of both, as torch counts on other devices."""
    *batches, rows, features = query
    return int(2 * math.prod(batches) * rows * key[-2] * (3 * features + 2 * value[-1]))


def _recurrent(inputs: Any, weights: Any, *_more: Any, **_options: Any) -> int:
    """The products of a recurrent network's matrices with all of its steps, [time, batch, features]."""
    *steps, _features = inputs
    return int(2 * math.prod(steps) * sum(math.prod(w) for w in weights if len(w) == 2))


def _recurrent_layer(inputs: Any, of_input: Any, of_hidden: Any, *_more: Any, **_options: Any) -> int:
    """The same for one layer in one direction, whose matrices are arguments of their own."""
    return _recurrent(inputs, (of_input, of_hidden))


def _twice(formula: Callable[..., int]) -> Callable[..., int]:
    """The formula of a backward pass: a product for the slope of each factor."""
    return lambda *shapes, **options: 2 * formula(*shapes, **options)


# Formulas that torch's own counter lacks: products added in place or over a batch, a CPU's attention, and
# recurrent networks as cuDNN and a CPU's oneDNN compute them.
FORMULAS = {
    torch.ops.aten.addmm_: _added_product,
    torch.ops.aten.baddbmm_: _added_product,
    torch.ops.aten.addbmm: _added_product,
    torch.ops.aten.addbmm_: _added_product,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten._cudnn_rnn: _recurrent,
    torch.ops.aten._cudnn_rnn_backward: _twice(_recurrent),
    torch.ops.aten.mkldnn_rnn_layer: _recurrent_layer,
    torch.ops.aten.mkldnn_rnn_layer_backward: _twice(_recurrent_layer),
    torch.ops.aten.mv: lambda a, _b, **_options: 2 * a[0] * a[1],
    torch.ops.aten.addmv: lambda _into, a, _b, **_options: 2 * a[0] * a[1],
    torch.ops.aten.addmv_: lambda _into, a, _b, **_options: 2 * a[0] * a[1],
    torch.ops.aten.addr_: lambda into, *_rest, **_options: 2 * into[0] * into[1],
}


class _NoModules(ModuleTracker):
    """Tracks no modules: hooks on their outputs fail where a module runs on dual numbers."""

    def __enter__(self) -> _NoModules:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def count(run: Callable[[], object]) -> Work:
    """Count a piece of eager work while it runs."""
    counter = _Counter()
    flops = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    flops.mod_tracker = _NoModules()
    with flops, counter:
        run()
    moved = sum(counter.read.values()) + sum(counter.written.values())
    return Work(
        flops.get_total_flops(),
        moved,
        counter.operations,
        frozenset(counter.products),
        counter.convolutions,
        counter.product_bytes,
        counter.other_bytes,
        counter.random_numbers,
    )


def mean_work(works: Sequence[Work]) -> Work:
    """The mean counts of steps that differ in kind, with the shapes of all their products."""
    amounts = {name: round(sum(getattr(work, name) for work in works) / len(works)) for name in COUNTS}
    return Work(**amounts, products=all_products(works), convolutions=all_convolutions(works))


def all_products(works: Iterable[Work]) -> frozenset[Shape]:
    """The shapes of the matrix products of all of these."""
    return frozenset().union(*(work.products for work in works))


def all_convolutions(works: Iterable[Work]) -> dict[Convolution, int]:
    """The convolutions of all of these, each with its largest batch."""
    found: dict[Convolution, int] = {}
    for work in works:
        for convolution, batch in work.convolutions.items():
            found[convolution] = max(batch, found.get(convolution, 0))
    return found


@dataclass
class _Counter(TorchDispatchMode):
    """Counts while it is in force; it sees every operation below autograd.

    Attributes:
        read, written: by address, bytes of storages that existed before the work.
        made: addresses of storages that the work made itself.
    """

    operations: int = 0
    read: dict[int, int] = field(default_factory=dict)
    written: dict[int, int] = field(default_factory=dict)
    made: set[int] = field(default_factory=set)
    products: set[Shape] = field(default_factory=set)
    convolutions: dict[Convolution, int] = field(default_factory=dict)
    product_bytes: int = 0
    other_bytes: int = 0
    random_numbers: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        inputs = {_address(t): t for t in _tensors((args, kwargs))}
        outputs = {_address(t): t for t in _tensors(found)}
        changed = {_address(t) for t in _changed(func, args, kwargs)}
        fresh = set(outputs) - set(inputs)
        name = func.overloadpacket.__name__
        if name in FREE:
            self.made |= fresh
            return found
        if not fresh and not changed:
            return found  # a view
        self.operations += 1
        if name in PRODUCTS:
            self.products.add(_shape(args))
        if name == "convolution":
            done = Convolution.of(*args)
            self.convolutions[done] = max(len(args[0]), self.convolutions.get(done, 0))
        only_written = changed if name in FILLS or func._overloadname == "out" else set()
        read = [t for address, t in inputs.items() if address not in only_written]
        written = [t for address, t in (inputs | outputs).items() if address in fresh | changed]
        traffic = sum(map(_bytes, [*read, *written]))
        if func.overloadpacket in flop_registry or func.overloadpacket in FORMULAS:
            self.product_bytes += traffic
        else:
            self.other_bytes += traffic
        if torch.Tag.nondeterministic_seeded in func.tags and not _drops_nothing(func, args, kwargs):
            self.random_numbers += next(_tensors(found)).numel()  # others are masks and states
        for address, tensor in inputs.items():
            if address not in self.made:
                table = self.written if address in changed else self.read
                table[address] = max(table.get(address, 0), _bytes(tensor))
        self.made |= fresh
        return found


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors that are somewhere: a missing tangent is a tensor of zeros without memory."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf._is_zerotensor())


def _drops_nothing(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether it is an attention or a recurrent layer without dropout, which draws no random numbers."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout_p", "dropout"):
            given = args[place] if place < len(args) else argument.default_value
            return not kwargs.get(argument.name, given)
    return False


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _bytes(tensor: Tensor) -> int:
    """Bytes of a tensor; of an expanded tensor, whose entries repeat, at most those of its storage."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _changed(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that an operation writes in place."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from _tensors(given)


def _shape(args: Any) -> Shape:
    a, b = [t for t in args if isinstance(t, Tensor)][-2:]
    return int(a.shape[-2]), int(a.shape[-1]), int(b.shape[-1])
