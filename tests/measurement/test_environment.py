"""The environment: every key a reader needs, and nothing that needs to be there."""

from __future__ import annotations

import json
import platform

from fgbench.measurement import environment
from fgbench.measurement.allocator import keep_freed_pages
from fgbench.measurement.environment import describe_environment, library_version


def test_environment_has_what_a_reader_needs_and_goes_into_json():
    facts = describe_environment("cpu", 3)
    wanted = {"device", "device_name", "cpu", "cores", "threads", "platform", "python", "libraries", "cuda"}
    assert wanted <= set(facts), wanted - set(facts)
    assert (facts["device"], facts["threads"]) == ("cpu", 3)
    assert facts["libraries"]["torch"]
    assert facts["device_name"]
    assert json.loads(json.dumps(facts)) == facts


def test_a_library_that_is_not_there_is_none():
    assert library_version("no-such-distribution-of-anyone") is None


def test_a_machine_without_git_proc_or_sys_is_described_all_the_same(monkeypatch):
    monkeypatch.setattr(environment, "_read", lambda _path: None)
    monkeypatch.setenv("PATH", "")
    facts = describe_environment("cpu", 1)
    assert facts["governor"] is None
    assert facts["fgbench_git"] is None
    assert facts["cpu"]


def test_allocator_takes_effect_where_there_is_glibc():
    assert keep_freed_pages() is (platform.libc_ver()[0] == "glibc")


def test_allocator_does_nothing_off_linux(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert keep_freed_pages() is False


def test_allocator_says_no_without_glibc(monkeypatch):
    def absent(_name: str) -> None:
        raise OSError("libc.so.6: no such file")

    monkeypatch.setattr("ctypes.CDLL", absent)
    assert keep_freed_pages() is False
