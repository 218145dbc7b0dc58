"""What a piece of work costs wherever it runs: FLOPs, bytes that have to move, operations started.

Together with a machine's rates these bound its time from below, by the roofline: no faster than its FLOPs
at the rate of the best matrix product, nor than its bytes at the bandwidth of memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from fgbench.measurement.clock import Clock

# Making a tensor without writing to it starts nothing on the device.
FREE = ("empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "lift_fresh")
PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "addbmm", "addbmm_")
COUNTS = ("flops", "bytes", "operations", "product_bytes", "other_bytes", "random_numbers")
FILLS = ("normal_", "uniform_", "random_", "bernoulli_", "zero_", "fill_", "copy_")  # read nothing of it
SQUARE = (1024, 1024, 1024)  # a product that every machine does well
MEASURED_SECONDS = 0.02  # of one reading of a rate, at least
READINGS = 5  # of which the best is the rate

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Work:
    """What was counted.

    Attributes:
        flops: of products, convolutions and attention; two for a multiplication and an addition.
        bytes: of all tensors from outside that are read, each once, and of those that are written, each
            once: what has to move at the least. Whatever is made on the way might stay in a cache.
        operations: started one by one; views and empty tensors are none.
        products: the shapes (rows, inner, columns) of its matrix products.
        product_bytes: what products, convolutions and attention read and write, each operation's own.
        other_bytes: what all other operations read and write, each one's own: without a cache or a fusion
            all of it would move.
        random_numbers: drawn.
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
    """What a machine does at its best: FLOPs and bytes a second."""

    flops: float
    bytes: float

    def floor(self, work: Work) -> float:
        """Seconds below which the work cannot be done, by the roofline."""
        return max(work.flops / self.flops, work.bytes / self.bytes)


def _added_product(_into: Any, a: Any, b: Any, **_options: Any) -> int:
    """Of a product that is added to something: batches (one where there are none), rows, inner, columns."""
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


# What torch's own counter lacks: products that are added in place or over a batch, and a CPU's attention.
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


def count(run: Callable[[], object]) -> Work:
    """Count a piece of eager work while it runs."""
    counter = _Counter()
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as flops, counter:
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
    """Of steps that differ in kind: the mean of their counts, and all of their shapes."""
    amounts = {name: round(sum(getattr(work, name) for work in works) / len(works)) for name in COUNTS}
    return Work(**amounts, products=frozenset().union(*(work.products for work in works)))


@dataclass
class _Counter(TorchDispatchMode):
    """Sees every operation below autograd.

    Attributes:
        read, written: bytes of each storage from outside, by its address.
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
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage().data_ptr())


def _bytes(tensor: Tensor) -> int:
    """Of what the tensor shows, at most what is there: an expanded one shows some of it often."""
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
    """FLOPs a second of the best matrix product among these shapes and a square one."""
    return max(_product_rate(shape, device, dtype, clock) for shape in (SQUARE, *sorted(shapes)))


def _product_rate(shape: Shape, device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    rows, inner, columns = shape
    a = torch.ones(rows, inner, device=device, dtype=dtype)
    b = torch.ones(inner, columns, device=device, dtype=dtype)
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return 2 * rows * inner * columns / _best_seconds(lambda: torch.mm(a, b, out=out), clock)


def byte_rate(working_set: int, device: torch.device, clock: Clock) -> float:
    """Bytes a second of STREAM's triad, a = b + s·c, on arrays of this many bytes together.

    As large as what a step touches: where that stays in a cache, so does this.
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
    """Seconds that the host needs to start an operation: one that has next to nothing to do."""
    into = torch.zeros(1, device=device)
    return _best_seconds(lambda: into.add_(1.0), clock)


def _best_seconds(run: Callable[[], object], clock: Clock) -> float:
    """Of one call, the best of several readings of blocks that are long enough for the clock."""
    times = 1
    while (seconds := clock.time(_repeated(run, times)).seconds) < MEASURED_SECONDS:
        times *= 2
    readings = [seconds, *(clock.time(_repeated(run, times)).seconds for _ in range(READINGS - 1))]
    return min(readings) / times


def _repeated(run: Callable[[], object], times: int) -> Callable[[], None]:
    def block() -> None:
        for _ in range(times):
            run()

    return block
