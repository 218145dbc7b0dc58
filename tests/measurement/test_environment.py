"""The environment: every key a reader needs, and nothing that needs to be there."""

from __future__ import annotations

import json
import platform

import pytest

from fgbench.measurement import environment
from fgbench.measurement.allocator import keep_freed_pages
from fgbench.measurement.environment import describe_environment, library_version, usable_cores


def test_environment_has_what_a_reader_needs_and_goes_into_json():
    facts = describe_environment("cpu", 3)
    wanted = {"device", "device_name", "cpu", "cores", "threads", "platform", "python", "libraries", "cuda"}
    assert wanted <= set(facts), wanted - set(facts)
    assert (facts["device"], facts["threads"]) == ("cpu", 3)
    assert facts["libraries"]["torch"]
    assert facts["device_name"]
    assert json.loads(json.dumps(facts)) == facts
    assert facts["load_1min"] == round(facts["load_1min"], 2)


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


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"/proc/self/cgroup": "0::/a/b", "/sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 8),
        ({"/proc/self/cgroup": "0::/a/b", "/sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 2),
        ({"/proc/self/cgroup": "0::/a/b", "/sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
        ({"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        ({"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "900000 100000"}, 8),
        ({"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "1000 100000"}, 1),
        (
            {
                "/proc/self/cgroup": "4:memory:/m\n2:cpu,cpuacct:/d",
                "/sys/fs/cgroup/cpu/d/cpu.cfs_quota_us": "200000",
                "/sys/fs/cgroup/cpu/d/cpu.cfs_period_us": "100000",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2,
        ),
    ],
)
def test_usable_cores_are_those_it_may_run_on_within_every_quota(monkeypatch, files, cores):
    monkeypatch.setattr(environment, "_read", files.get)
    monkeypatch.setattr(environment.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == cores
