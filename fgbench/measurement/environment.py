"""The environment in which figures are measured: machine, libraries and their state."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    *("torch", "torchvision", "numpy", "scipy", "pandas", "matplotlib"),
    *("triton", "nvidia-ml-py"),
)


def describe_environment(device: str, threads: int) -> dict[str, Any]:
    """The facts of the environment that a reader needs to judge a result, and to repeat it.

    Args:
        device: torch's name of it, as in `cpu` or `cuda:0`.
        threads: intra-op threads that the jobs use.
    """
    import torch

    facts: dict[str, Any] = {
        "device": device,
        "device_name": device_name(device),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "threads": threads,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: library_version(name) for name in LIBRARIES},
        "torch_build": {
            "git": torch.version.git_version,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "mkl": torch.backends.mkl.is_available(),
            "mkldnn": torch.backends.mkldnn.is_available(),
        },
        "gpu": _gpu(device) if device.startswith("cuda") else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "driver": _driver() if torch.cuda.is_available() else None,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "git": _git_state(Path.cwd()),
        "fgbench_git": _git_state(Path(__file__).parent),
    }
    return facts


def usable_cores() -> int:
    """How many cores this process may keep busy, by its affinity and its control groups' quotas."""
    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(1, min([len(here), *(math.ceil(quota) for quota in _quotas())]))


def _quotas() -> Iterator[float]:
    """The cores that each of the process's control groups (version 1 or 2), or a parent of it, allows."""
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup") / ("cpu" if controllers else "")
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            if controllers:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                cells = [_read(str(folder / name)) or "" for name in names]
            else:
                cells = (_read(str(folder / "cpu.max")) or "").split()
            if len(cells) == 2 and all(cell.isdigit() for cell in cells):  # `max` and -1 mean no limit
                yield int(cells[0]) / int(cells[1])
            if folder == root:
                break


def conditions(environment: Mapping[str, Any]) -> dict[str, str]:
    """The facts of an environment, besides the device's name, that figures depend on.

    A value is empty where it does not matter, as CUDA's version on a CPU, or where an older run lacks it.
    """
    gpu = environment.get("gpu") or {}
    on_gpu = str(environment.get("device", "")).startswith("cuda")
    power = gpu.get("power_limit_watts")
    found = {
        "torch": (environment.get("libraries") or {}).get("torch"),
        "cuda": environment.get("cuda") if on_gpu else None,
        "cudnn": environment.get("cudnn") if on_gpu else None,
        "cores": None if on_gpu else environment.get("usable_cores"),
        "power_limit": None if power is None else f"{power:g} W",
    }
    return {name: "" if value is None else str(value) for name, value in found.items()}


def library_version(name: str) -> str | None:
    """The installed version of a distribution; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def device_name(device: str) -> str:
    """The processor's or the GPU's marketing name."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()


def node_name() -> str:
    """The machine's name; within a job of Slurm the name that Slurm gives it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def cpu_name() -> str:
    """The processor's name as the kernel gives it."""
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu(device: str) -> dict[str, Any]:
    import torch

    found = torch.cuda.get_device_properties(device)
    return {
        "memory_bytes": found.total_memory,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "power_limit_watts": _power_limit(device),
    }


def _power_limit(device: str) -> float | None:
    """The limit that is set on the GPU's power, in watts; None where it is not known.

    Not the one in force, which a laptop moves by itself.
    """
    import torch

    from fgbench.measurement.gauge import Nvml

    try:
        gauge = Nvml(torch.device(device))
        return float(gauge.nvml.nvmlDeviceGetPowerManagementLimit(gauge.handle)) / 1e3
    except Exception:  # no library, no permission, a virtual device
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _driver() -> str | None:
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def _git_state(folder: Path) -> str | None:
    return _output("git", "-C", str(folder), "describe", "--always", "--dirty")


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0] or None
