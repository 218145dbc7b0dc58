"""The gauge, over a library that stands for NVML's."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fgbench.measurement.gauge import Blind, Nvml, State, gauge_for, throttles

CUDA = torch.device("cuda:0")


class NotSupportedError(Exception):
    pass


def nvml(**answers: Any) -> SimpleNamespace:
    """What NVML answers; an exception is raised."""
    told: dict[str, Any] = {
        "nvmlDeviceGetClockInfo": 1980,
        "nvmlDeviceGetPowerUsage": 412_500,  # milliwatts
        "nvmlDeviceGetTemperature": 61,
        "nvmlDeviceGetCurrentClocksEventReasons": 0x04 | 0x40,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 0x08,
        "nvmlDeviceGetTotalEnergyConsumption": 7_250,  # millijoules
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlInit": None,
        **answers,
    }

    def function(answer: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer(*arguments) if callable(answer) else answer

        return call

    numbers = {name: answers.pop(name) for name in list(answers) if name.startswith("NVML_")}
    told = {name: answer for name, answer in told.items() if name not in numbers}
    return SimpleNamespace(
        **{name: function(answer) for name, answer in told.items()},
        **numbers,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        NVMLError=NotSupportedError,
    )


@pytest.fixture
def library(monkeypatch):
    def install(**answers: Any) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", nvml(**answers))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))

    return install


def test_units_are_those_of_the_names(library):
    library()
    assert Nvml(CUDA).read() == State(1980.0, 412.5, 61.0, "power+thermal", 7.25)


@pytest.mark.parametrize(
    ("told", "watts"),
    [
        (0, 287.5),
        (3, 412.5),  # as by a GPU that does not know the field
        (NotSupportedError(), 412.5),  # as by an older driver
    ],
)
def test_power_is_that_of_the_moment_where_the_gpu_tells_it(library, told, watts):
    def values(handle: str, fields: list[int]) -> list[SimpleNamespace]:
        assert (handle, fields) == ("GPU-1234", [186])
        if isinstance(told, Exception):
            raise told
        return [SimpleNamespace(nvmlReturn=told, value=SimpleNamespace(uiVal=287_500))]

    library(nvmlDeviceGetFieldValues=values, NVML_FI_DEV_POWER_INSTANT=186, NVML_SUCCESS=0)
    assert Nvml(CUDA).read().power_watts == watts


def test_the_device_is_found_by_its_uuid(library):
    library()
    assert Nvml(CUDA).handle == "GPU-1234"


def test_a_slice_is_found_by_its_uuid_and_shows_the_clocks_of_its_gpu_but_not_its_power(library):
    """torch gives a MIG device's UUID without MIG- before it; its handle knows no clocks."""

    def known(uuid: str) -> str:
        if uuid != "MIG-1234":
            raise NotSupportedError
        return "slice"

    library(
        nvmlDeviceGetHandleByUUID=known,
        nvmlDeviceGetDeviceHandleFromMigDeviceHandle=lambda handle: {"slice": "whole"}[handle],
    )
    gauge = Nvml(CUDA)
    assert gauge.handle == "whole"
    assert gauge.read() == State(1980.0, None, 61.0, "power+thermal", None)


@pytest.mark.parametrize("absent", ["in the library", "in the driver"])
def test_an_older_nvml_is_asked_by_the_older_name(library, monkeypatch, absent):
    library(nvmlDeviceGetCurrentClocksEventReasons=NotSupportedError())
    if absent == "in the library":
        monkeypatch.delattr(sys.modules["pynvml"], "nvmlDeviceGetCurrentClocksEventReasons")
    assert Nvml(CUDA).read().throttle == "slowdown"


def test_what_a_device_does_not_tell_is_missing_and_the_rest_is_there(library):
    library(
        nvmlDeviceGetTotalEnergyConsumption=NotSupportedError(), nvmlDeviceGetPowerUsage=NotSupportedError()
    )
    assert Nvml(CUDA).read() == State(1980.0, None, 61.0, "power+thermal", None)


def test_without_nvml_and_on_a_cpu_the_gauge_is_blind(library):
    library(nvmlInit=NotSupportedError())
    assert isinstance(gauge_for(CUDA), Blind)
    assert isinstance(gauge_for(torch.device("cpu")), Blind)
    assert Blind().read() == State()


@pytest.mark.parametrize(
    ("bits", "said"),
    [
        (0, ""),
        (0x01, ""),
        (0x02, ""),
        (0x04, "power"),
        (0x20 | 0x40, "thermal"),
        (0x80 | 0x08, "power brake+slowdown"),
    ],
)
def test_idle_and_a_set_clock_are_no_throttling(bits, said):
    assert throttles(bits) == said


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu_tells_its_clock_and_power():
    gauge = gauge_for(CUDA)
    assert isinstance(gauge, Nvml)
    state = gauge.read()
    assert state.sm_clock_mhz
    assert state.sm_clock_mhz > 100
    assert state.power_watts is None or state.power_watts > 1
