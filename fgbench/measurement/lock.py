"""One timing at a time on a device: two would measure each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def timing_lock(device: str, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the device for timing; waits for whoever holds it.

    Args:
        device: as torch names it; all of a machine's CPU is one.
        note: told in a line that it waits, or that there can be no lock.
    """
    lock = FileLock(lock_file(device), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        note(f"another fgbench times on {device}: waiting for its end.")
        lock.acquire(timeout=-1)
    except OSError as error:  # another user's file: better unlocked than not at all
        note(f"no lock on {device} ({error.strerror}): see that nothing else times on it.")
        yield
        return
    try:
        yield
    finally:
        lock.release()


def lock_file(device: str) -> Path:
    """Of the machine, not of a results folder; a GPU's by its UUID, for CUDA_VISIBLE_DEVICES renames it."""
    return Path(tempfile.gettempdir()) / f"fgbench-{(_uuid(device) or device).replace(':', '-')}.lock"


def _uuid(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    import torch

    with suppress(Exception):  # no such device, or one that has none
        return str(torch.cuda.get_device_properties(device).uuid)  # type: ignore[attr-defined]
    return None
