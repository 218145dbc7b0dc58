"""Count what a piece of work costs on any machine: FLOPs, bytes that have to move, operations started.

With a machine's rates these bound the time from below (the roofline): the work takes at least its FLOPs at
the rate of the machine's best matrix product, and at least its bytes at the bandwidth of its memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.module_tracker import ModuleTracker

from fgbench.measurement.clock import Clock
from fgbench.measurement.interleave import repeat

# These operations make a tensor without writing to it, and so start nothing on the device.
FREE = ("empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "lift_fresh")
PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "addbmm", "addbmm_")
COUNTS = ("flops", "bytes", "operations", "product_bytes", "other_bytes", "random_numbers")
# These operations write a tensor without reading what is in it.
FILLS = ("normal_", "uniform_", "random_", "bernoulli_", "zero_", "fill_", "copy_")
SQUARE = (1024, 1024, 1024)  # a product that every machine computes at a good rate
MEASURED_SECONDS = 0.02  # each reading of a rate takes at least so long
READINGS = 5  # the best of so many readings is the rate

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Work:
    """The counts of a piece of work.

    Attributes:
        flops: those of products, convolutions and attention; a multiplication and an addition are two.
        bytes: the least that has to move: every tensor that existed before and is read, once, and every
            such tensor that is written, once. Tensors made on the way might stay in a cache.
        operations: how many were started one by one; views and empty tensors do not count.
        products: the shapes (rows, inner, columns) of its matrix products.
        product_bytes: what products, convolutions and attention read and write, summed over operations.
        other_bytes: the same for all other operations; all of it moves if there is no cache or fusion.
        random_numbers: how many were drawn.
    """

    flops: int
    bytes: int
    operations: int
    products: frozenset[Shape]
    product_bytes: int = 0
    other_bytes: int = 0
    random_numbers: int = 0


@dataclass(frozen=True)
class Rates:
    """A machine's best rates: FLOPs a second, and bytes a second."""

    flops: float
    bytes: float

    def floor(self, work: Work) -> float:
        """The least seconds in which the work can be done, by the roofline."""
        return max(work.flops / self.flops, work.bytes / self.bytes)


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


# Formulas that torch's own counter lacks: products added in place or over a batch, and a CPU's attention.
FORMULAS = {
    torch.ops.aten.addmm_: _added_product,
    torch.ops.aten.baddbmm_: _added_product,
    torch.ops.aten.addbmm: _added_product,
    torch.ops.aten.addbmm_: _added_product,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
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
        counter.product_bytes,
        counter.other_bytes,
        counter.random_numbers,
    )


def mean_work(works: Sequence[Work]) -> Work:
    """The mean counts of steps that differ in kind, with the shapes of all their products."""
    amounts = {name: round(sum(getattr(work, name) for work in works) / len(works)) for name in COUNTS}
    return Work(**amounts, products=frozenset().union(*(work.products for work in works)))


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
        only_written = changed if name in FILLS or func._overloadname == "out" else set()
        read = [t for address, t in inputs.items() if address not in only_written]
        written = [t for address, t in (inputs | outputs).items() if address in fresh | changed]
        traffic = sum(map(_bytes, [*read, *written]))
        if func.overloadpacket in flop_registry or func.overloadpacket in FORMULAS:
            self.product_bytes += traffic
        else:
            self.other_bytes += traffic
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.random_numbers += sum(tensor.numel() for tensor in outputs.values())
        for address, tensor in inputs.items():
            if address not in self.made:
                table = self.written if address in changed else self.read
                table[address] = max(table.get(address, 0), _bytes(tensor))
        self.made |= fresh
        return found


def _tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors that are somewhere: a missing tangent is a tensor of zeros without memory."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and not leaf._is_zerotensor())


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


def product_rate(shapes: frozenset[Shape], device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """FLOPs a second of the fastest matrix product among these shapes and a square one."""
    return max(_product_rate(shape, device, dtype, clock) for shape in (SQUARE, *sorted(shapes)))


def _product_rate(shape: Shape, device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    rows, inner, columns = shape
    a = torch.ones(rows, inner, device=device, dtype=dtype)
    b = torch.ones(inner, columns, device=device, dtype=dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return 2 * rows * inner * columns / _best_seconds(lambda: torch.mm(a, b, out=out), clock)


def byte_rate(working_set: int, device: torch.device, clock: Clock) -> float:
    """Bytes a second of STREAM's triad, a = b + s·c, on three arrays of `working_set` bytes together.

    `working_set` is what a step touches, so that the arrays stay in a cache just where the step's data do.
    """
    length = max(working_set // 12, 1024)
    a, b, c = (torch.ones(length, device=device) for _ in range(3))
    return 12 * length / _best_seconds(lambda: torch.add(b, c, alpha=3.0, out=a), clock)


def random_rate(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """Normal random numbers a second, drawn into a tensor of a million."""
    into = torch.empty(SQUARE[0] * SQUARE[1], device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(0)
    return into.numel() / _best_seconds(lambda: into.normal_(generator=generator), clock)


def launch_seconds(device: torch.device, clock: Clock) -> float:
    """Seconds that the host needs to start an operation; measured by one that has hardly anything to do."""
    into = torch.zeros(1, device=device)
    return _best_seconds(lambda: into.add_(1.0), clock)


def _best_seconds(run: Callable[[], object], clock: Clock) -> float:
    """Seconds of one call, the best of several readings of blocks that are long enough for the clock."""
    times = 1
    while (seconds := clock.time(partial(repeat, run, times)).seconds) < MEASURED_SECONDS:
        times *= 2
    readings = [seconds, *(clock.time(partial(repeat, run, times)).seconds for _ in range(READINGS - 1))]
    return min(readings) / times
