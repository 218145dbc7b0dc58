"""One timing at a time on a device."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from fgbench.measurement.lock import lock_file, timing_lock


def test_a_second_timing_waits_and_says_so():
    notes: list[str] = []
    order: list[str] = []

    def second() -> None:
        with timing_lock("cpu", notes.append):
            order.append("second")

    with timing_lock("cpu", notes.append):
        other = threading.Thread(target=second)
        other.start()
        while not notes:
            other.join(0.01)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]
    assert notes == ["another fgbench is timing on cpu: waiting until it ends."]


def test_another_device_does_not_wait():
    notes: list[str] = []
    with timing_lock("cuda:0", notes.append), timing_lock("cuda:1", notes.append):
        assert not notes


def test_a_gpu_is_one_device_whatever_number_it_goes_by(monkeypatch):
    """Another process, with another CUDA_VISIBLE_DEVICES, calls the same GPU cuda:0."""
    uuids = {"cuda:0": "one", "cuda:1": "two"}

    def properties(device: str) -> SimpleNamespace:
        return SimpleNamespace(uuid=uuids[device])

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    here = lock_file("cuda:1")
    assert here != lock_file("cuda:0")
    uuids["cuda:0"] = "two"
    assert lock_file("cuda:0") == here
    assert lock_file("cuda:7").name == "fgbench-cuda-7.lock", "where it has no UUID, by its number"


def test_it_is_given_back_when_the_timing_fails():
    with pytest.raises(ZeroDivisionError), timing_lock("cpu", lambda _: None):
        raise ZeroDivisionError
    FileLock(lock_file("cpu"), timeout=0).acquire().lock.release()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_without_a_lock_the_run_goes_on_and_says_so(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    monkeypatch.setattr("fgbench.measurement.lock.lock_file", lambda device: tmp_path / "lock")
    notes: list[str] = []
    with timing_lock("cpu", notes.append):
        pass
    assert "cpu cannot be locked" in notes[0]
