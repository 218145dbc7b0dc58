"""How long counted work would take on a machine that is not there, by that machine's rates alone."""

from __future__ import annotations

from dataclasses import dataclass

from fgbench.measurement.cost import Work

FLOAT_BYTES = 4
PRODUCTS, MEMORY, RANDOM, HOST = "products", "memory", "random numbers", "host"


@dataclass(frozen=True)
class Device:
    """A machine's rates.

    Attributes:
        flops: a second, of matrix products.
        bytes: a second, to and from memory.
        launch: seconds that the host needs to start an operation.
        random: numbers a second; None where they are drawn as fast as they are written.
        queued: whether the host runs ahead, as of a GPU; a CPU starts an operation when the last is done.
    """

    flops: float
    bytes: float
    launch: float
    random: float | None = None
    queued: bool = True


@dataclass(frozen=True)
class Predicted:
    """Seconds, and what most of them go to: products, memory, random numbers or the host."""

    seconds: float
    bound_by: str


def predict(work: Work, device: Device) -> Predicted:
    """The time of eager work: one operation after the other, each at the machine's rates.

    Products take their FLOPs or their bytes, whichever is longer; all else moves its bytes. What a cache
    or a fusion saves, and how far from its best rate a small product is, are left out.
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
