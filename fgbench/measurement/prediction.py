"""Predict how long counted work would take on another machine, from that machine's rates alone."""

from __future__ import annotations

from dataclasses import dataclass

from fgbench.measurement.cost import Work

FLOAT_BYTES = 4
PRODUCTS, MEMORY, RANDOM, HOST = "products", "memory", "random numbers", "host"


@dataclass(frozen=True)
class Device:
    """A machine's rates.

    Attributes:
        flops: FLOPs a second of matrix products.
        bytes: bytes a second to and from memory.
        launch: seconds that the host needs to start an operation.
        random: random numbers a second; None if they are drawn as fast as they can be written.
        queued: whether the host queues operations ahead, as for a GPU; a CPU starts one after the other.
    """

    flops: float
    bytes: float
    launch: float
    random: float | None = None
    queued: bool = True


@dataclass(frozen=True)
class Predicted:
    """The predicted seconds, and what takes most of them: products, memory, random numbers or the host."""

    seconds: float
    bound_by: str


def predict(work: Work, device: Device) -> Predicted:
    """The time of eager work: one operation after the other, each at the machine's rates.

    Products take the time of their FLOPs or of their bytes, whichever is longer; other operations take that
    of their bytes. It is not considered what caches and fusion save, nor that small products are slower.
    """
    numbers = work.random_numbers / (device.random or device.bytes / FLOAT_BYTES)
    parts = {
        PRODUCTS: max(work.flops / device.flops, work.product_bytes / device.bytes),
        MEMORY: work.other_bytes / device.bytes,
        RANDOM: numbers,
    }
    busy, host = sum(parts.values()), work.operations * device.launch
    seconds = max(busy, host) if device.queued else busy + host
    if device.queued and host > busy:
        return Predicted(seconds, HOST)
    everything = parts if device.queued else {**parts, HOST: host}
    return Predicted(seconds, max(everything, key=lambda name: everything[name]))
