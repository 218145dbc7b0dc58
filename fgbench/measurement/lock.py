"""A lock that lets only one fgbench time on a device at once, as two would disturb each other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def timing_lock(device: str, note: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a device for timing; waits until no other process holds it.

    Args:
        device: torch's name of it; all cores of a machine are one device.
        note: is told in a line if this has to wait, or if the lock cannot be had.
    """
    lock = FileLock(lock_file(device), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        note(f"another fgbench is timing on {device}: waiting until it ends.")
        lock.acquire(timeout=-1)
    except OSError as error:  # as for another user's file: timing without a lock is better than none
        note(f"{device} cannot be locked ({error.strerror}): make sure that nothing else is timed on it.")
        yield
        return
    try:
        yield
    finally:
        lock.release()


def lock_file(device: str) -> Path:
    """The machine's lock file of a device; a GPU is named by its UUID, as its number is not unique."""
    return Path(tempfile.gettempdir()) / f"fgbench-{(_uuid(device) or device).replace(':', '-')}.lock"


def _uuid(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    import torch

    with suppress(Exception):  # no such device, or one that has none
        return str(torch.cuda.get_device_properties(device).uuid)  # type: ignore[attr-defined]
    return None
