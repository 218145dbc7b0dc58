"""A machine's best rates, which bound the time of a piece of work from below (the roofline).

The work takes at least its FLOPs at the rate of the machine's best product, and at least its bytes at the
bandwidth of its memory. A library may compute convolutions faster than matrix products, so that those of the
work are timed as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fgbench.measurement.clock import Clock
from fgbench.measurement.cost import Convolution, Shape, Work
from fgbench.measurement.interleave import repeat
from fgbench.measurement.load import DeviceClock, queued_seconds

# A square product of this side is computed at a good rate: on a large GPU one of 1024 leaves cores idle.
SIDE = {"cpu": 1024, "cuda": 4096}
MEASURED_SECONDS = 0.02  # each reading of a rate takes at least so long
READINGS = 5  # the best of so many readings is the rate
QUEUED_CALLS = 256  # at most so many are queued behind a GPU's sleep: half a millisecond of short kernels


@dataclass(frozen=True)
class Rates:
    """A machine's best rates: FLOPs a second, and bytes a second."""

    flops: float
    bytes: float

    def floor(self, work: Work) -> float:
        """The least seconds in which the work can be done, by the roofline."""
        return max(work.flops / self.flops, work.bytes / self.bytes)


def product_rate(
    products: frozenset[Shape],
    convolutions: Mapping[Convolution, int],
    device: torch.device,
    dtype: torch.dtype,
    clock: Clock,
) -> float:
    """FLOPs a second of the fastest among these products and convolutions, and a square product."""
    square = (SIDE[device.type],) * 3
    found = [_matrix_rate(shape, device, dtype, clock) for shape in (square, *sorted(products))]
    found += [_convolution_rate(*each, device, dtype, clock) for each in sorted(convolutions.items())]
    return max(found)


def _operand(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Random numbers, as a GPU at its limit of power is faster on equal ones."""
    operand = torch.empty(*shape, device=device, dtype=dtype)
    return operand.normal_(generator=torch.Generator(device))


def _matrix_rate(shape: Shape, device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    rows, inner, columns = shape
    a, b = (_operand(shape, device, dtype) for shape in ((rows, inner), (inner, columns)))
    out = torch.empty(rows, columns, device=device, dtype=dtype)
    return 2 * rows * inner * columns / _best_seconds(lambda: torch.mm(a, b, out=out), clock)


def _convolution_rate(
    done: Convolution, batch: int, device: torch.device, dtype: torch.dtype, clock: Clock
) -> float:
    inputs = _operand((batch, *done.inputs), device, dtype)
    weight = _operand(done.weight, device, dtype)

    def run() -> Tensor:
        return torch.convolution(inputs, weight, None, *done.options)

    with torch.no_grad():
        transposed = done.options[3]
        places = math.prod((inputs if transposed else run()).shape[2:])
        return 2 * batch * math.prod(done.weight) * places / _best_seconds(run, clock)


def byte_rate(working_set: int, device: torch.device, clock: Clock) -> float:
    """Bytes a second of STREAM's triad, a = b + s·c, on three arrays of `working_set` bytes together.

    `working_set` is what a step touches, so that the arrays stay in a cache just where the step's data do.
    """
    length = max(working_set // 12, 1024)
    a, b, c = (torch.ones(length, device=device) for _ in range(3))
    return 12 * length / _best_seconds(lambda: torch.add(b, c, alpha=3.0, out=a), clock)


def random_rate(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """Normal random numbers a second, drawn into a tensor as large as a square product's."""
    into = torch.empty(SIDE[device.type] ** 2, device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(0)
    return into.numel() / _best_seconds(lambda: into.normal_(generator=generator), clock)


def launch_seconds(device: torch.device, clock: Clock) -> float:
    """Seconds that the host needs to start an operation; measured by one that has hardly anything to do."""
    into = torch.zeros(1, device=device)
    return _best_reading(lambda: into.add_(1.0), clock)[0]


def _best_seconds(run: Callable[[], object], clock: Clock) -> float:
    """Seconds of one call, the best of several readings.

    A GPU may finish a call sooner than the host can start the next one. Its rate is then that of calls which
    were queued beforehand, as those of a CUDA graph are.
    """
    seconds, times = _best_reading(run, clock)
    if not isinstance(clock, DeviceClock):
        return seconds
    queued = queued_seconds(run, min(times, QUEUED_CALLS), clock, seconds)
    return seconds if queued is None else min(seconds, queued)


def _best_reading(run: Callable[[], object], clock: Clock) -> tuple[float, int]:
    """The least seconds of one call, from blocks that are long enough for the clock; and a block's calls."""
    times = 1
    while (seconds := clock.time(partial(repeat, run, times)).seconds) < MEASURED_SECONDS:
        times *= 2
    readings = [seconds, *(clock.time(partial(repeat, run, times)).seconds for _ in range(READINGS - 1))]
    return min(readings) / times, times
