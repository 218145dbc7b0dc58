"""Gauges read a GPU's clock, power, temperature, throttling and energy through NVML; no root is needed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

GPU, MIG = "GPU-", "MIG-"  # NVML's UUIDs begin with these

# NVML's bits for what throttles a GPU; its bits for idleness and application clocks are no throttling.
THROTTLES = {
    0x04: "power",
    0x08: "slowdown",
    0x20: "thermal",
    0x40: "thermal",
    0x80: "power brake",
}


@dataclass(frozen=True)
class State:
    """A GPU's state at one moment; a value is None where the device does not tell it.

    Attributes:
        sm_clock_mhz: the clock of the streaming multiprocessors.
        power_watts: the power drawn.
        temperature_celsius: the temperature of the chip.
        throttle: why the clock is held down, as in `power+thermal`; empty where it is not.
        joules: the energy drawn since the driver was loaded.
    """

    sm_clock_mhz: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None
    throttle: str | None = None
    joules: float | None = None


class Gauge(Protocol):
    """Reads a device's state; tests use one whose states are written in advance."""

    def read(self) -> State:
        """Read the device's state now."""


class Blind:
    """The gauge for a device that tells nothing."""

    def read(self) -> State:
        """Read nothing: every value is None."""
        return State()


class Nvml:
    """The gauge of an NVIDIA GPU, which is found by its UUID, as CUDA_VISIBLE_DEVICES changes its number.

    A MIG device has the clock, temperature and throttling of the GPU that it is a slice of. Power and energy
    of that GPU include its other slices, and are therefore left out.
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
        """The GPU's handle, and whether the device is a slice of it, which torch's UUID may not tell."""
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
            None if self.sliced else self._told(self._watts),
            self._told(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            self._throttle(),
            None
            if self.sliced
            else self._told(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3),
        )

    def _watts(self) -> float:
        """The power of this moment; a GPU that does not tell it gives a mean, of a second since Ampere."""
        field = getattr(self.nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        if field is not None:
            with suppress(self.nvml.NVMLError):
                (found,) = self.nvml.nvmlDeviceGetFieldValues(self.handle, [field])
                if found.nvmlReturn == self.nvml.NVML_SUCCESS:
                    return float(found.value.uiVal / 1e3)
        return float(self.nvml.nvmlDeviceGetPowerUsage(self.handle) / 1e3)

    def _throttle(self) -> str | None:
        """The reasons for throttling; older libraries and drivers know only the second of the two names."""
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
