"""A trainee's own state of the global random generators, from which dropout and layer dropping draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from fgbench.pushforward.generators import seeded, set_states, states


class OwnRandomness:
    """A state of the global generators of torch, Python and numpy, kept from some steps for the next ones.

    Methods that train in turns thus draw the same masks whichever others train beside them, and the
    caller's own state stays as it was.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(self.devices):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU
            for one in self.devices:
                with torch.cuda.device(one):
                    torch.cuda.manual_seed(seed)
            self.python, self.numpy = seeded(seed)
            self._keep()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Inside, random numbers come from this state; the next time they go on from where it ended."""
        with torch.random.fork_rng(self.devices):
            before = states()
            set_states(self.python, self.numpy)
            torch.set_rng_state(self.host)
            for device, state in zip(self.devices, self.on_devices, strict=True):
                torch.cuda.set_rng_state(state, device)
            try:
                yield
                self.python, self.numpy = states()
                self._keep()
            finally:
                set_states(*before)

    def state(self) -> dict[str, Any]:
        """The generators' state, for a snapshot."""
        own = {"python": self.python, "numpy": self.numpy}
        return {"host": self.host, "on_devices": self.on_devices, **own}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state` gave."""
        self.host, self.on_devices = state["host"], list(state["on_devices"])
        self.python, self.numpy = state.get("python", self.python), state.get("numpy", self.numpy)

    def _keep(self) -> None:
        self.host = torch.get_rng_state()
        self.on_devices = [torch.cuda.get_rng_state(device) for device in self.devices]
