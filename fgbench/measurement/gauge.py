"""Gauges: clock, power, temperature, throttling and energy of a GPU, by NVML; no root needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

GPU, MIG = "GPU-", "MIG-"  # what NVML's UUIDs begin with

# What holds a GPU's clock down, as NVML's bits; its idle and application-clock bits do not.
THROTTLES = {
    0x04: "power",
    0x08: "slowdown",
    0x20: "thermal",
    0x40: "thermal",
    0x80: "power brake",
}


@dataclass(frozen=True)
class State:
    """What the gauge shows at one moment; None is what the device does not tell.

    Attributes:
        sm_clock_mhz: of the streaming multiprocessors.
        power_watts: drawn.
        temperature_celsius: of the chip.
        throttle: what holds the clock down, as in `power+thermal`; empty for nothing.
        joules: drawn since the driver was loaded.
    """

    sm_clock_mhz: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None
    throttle: str | None = None
    joules: float | None = None


class Gauge(Protocol):
    """Reads a device's state; what a test replaces by a scripted one."""

    def read(self) -> State:
        """Read the device's state now."""


class Blind:
    """For a device that shows nothing."""

    def read(self) -> State:
        """Read nothing: every value is None."""
        return State()


class Nvml:
    """An NVIDIA GPU's, found by its UUID: CUDA_VISIBLE_DEVICES renumbers what NVML does not.

    A MIG device's clock, temperature and throttling are those of the GPU that it is a slice of; the
    power and energy of that GPU are its other slices' too, and so are not told.
    """

    def __init__(self, device: torch.device) -> None:
        """Open the device by NVML; raises whatever NVML raises where there is none."""
        import pynvml
        import torch

        pynvml.nvmlInit()
        self.nvml: Any = pynvml
        uuid = str(torch.cuda.get_device_properties(device).uuid)  # type: ignore[attr-defined]
        self.handle, self.sliced = self._found(uuid)

    def _found(self, uuid: str) -> tuple[Any, bool]:
        """The GPU, and whether the device is a slice of it; torch leaves out which of the two it names."""
        names = [uuid] if uuid.startswith((GPU, MIG)) else [GPU + uuid, MIG + uuid]
        for name in names[:-1]:
            with suppress(self.nvml.NVMLError):
                return self.nvml.nvmlDeviceGetHandleByUUID(name), False
        handle = self.nvml.nvmlDeviceGetHandleByUUID(names[-1])
        if not names[-1].startswith(MIG):
            return handle, False
        return self.nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle), True

    def read(self) -> State:
        """Read the device's state now, which takes some tens of microseconds."""
        nvml, handle = self.nvml, self.handle
        return State(
            self._told(lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            None if self.sliced else self._told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            self._told(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            self._throttle(),
            None
            if self.sliced
            else self._told(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3),
        )

    def _throttle(self) -> str | None:
        """By the name that the library and the driver know: an older one has only the second."""
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            ask = getattr(self.nvml, name, None)
            bits = self._told(lambda: ask(self.handle)) if ask else None  # noqa: B023 - called at once
            if bits is not None:
                return throttles(bits)
        return None

    def _told(self, ask: Callable[[], Any]) -> Any:
        with suppress(self.nvml.NVMLError):
            return ask()
        return None


def throttles(bits: int) -> str:
    """The reasons in NVML's bits, as in `power+thermal`."""
    return "+".join(sorted({name for bit, name in THROTTLES.items() if bits & bit}))


def gauge_for(device: torch.device) -> Gauge:
    """The gauge of a device; a blind one where NVML does not answer."""
    if device.type == "cuda":
        with suppress(Exception):  # no library, no permission, a virtual device
            return Nvml(device)
    return Blind()
