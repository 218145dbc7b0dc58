"""A trainee's own state of the global random generators, from which dropout and layer dropping draw."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class OwnRandomness:
    """A state of torch's and Python's global generators, in force for some steps and kept for the next.

    Methods that train in turns thus draw the same masks whichever others train beside them, and the
    caller's own state stays as it was.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(self.devices):
            torch.manual_seed(seed)
            self.python: Any = random.Random(seed).getstate()
            self._keep()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Inside, random numbers come from this state; the next time they go on from where it ended."""
        with torch.random.fork_rng(self.devices):
            before = random.getstate()
            random.setstate(self.python)
            torch.set_rng_state(self.host)
            for device, state in zip(self.devices, self.on_devices, strict=True):
                torch.cuda.set_rng_state(state, device)
            try:
                yield
                self.python = random.getstate()
                self._keep()
            finally:
                random.setstate(before)

    def state(self) -> dict[str, Any]:
        """The generators' state, for a snapshot."""
        return {"host": self.host, "on_devices": self.on_devices, "python": self.python}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state` gave."""
        self.host, self.on_devices = state["host"], list(state["on_devices"])
        self.python = state.get("python", self.python)

    def _keep(self) -> None:
        self.host = torch.get_rng_state()
        self.on_devices = [torch.cuda.get_rng_state(device) for device in self.devices]
