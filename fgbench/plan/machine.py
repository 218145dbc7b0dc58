"""The machine that a plan is for: its device and its threads."""

from __future__ import annotations

from fgbench.errors import UsageError
from fgbench.measurement.environment import usable_cores
from fgbench.plan.checks import at_least


def resolve_device(asked: str) -> str:
    """Torch's name of a device; `auto` is the GPU if there is one.

    Raises:
        UsageError: torch does not see the device.
    """
    import torch

    if asked == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    device = "cuda:0" if asked == "cuda" else asked
    if device not in here:
        raise UsageError(f"--device {asked}: torch does not see it; it sees {', '.join(here)}.")
    return device


def resolve_threads(asked: int | None) -> int:
    """The number of threads asked for, or torch's own number, as far as that leaves a core to all else.

    With all cores in use, ratios scattered several times as much where it was tried.

    Raises:
        UsageError: more threads are asked for than there are usable cores; they would wait for each other.
    """
    import torch

    usable = usable_cores()
    if asked is None:
        return max(1, min(torch.get_num_threads(), usable - 1))
    at_least("--threads", asked, 1)
    if asked > usable:
        raise UsageError(f"--threads {asked}: must be at most {usable}, the cores that fgbench may use here.")
    return asked
