"""What every test shares: one thread, so that results and run times do not depend on the machine."""

from __future__ import annotations

import fcntl
import gc
import getpass
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings

from fgbench.measurement.environment import usable_cores
from fgbench.running import client
from tests import warm_workers

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
gc.disable()  # until all is imported, which is no garbage
sys.tracebacklimit = 4  # torch keeps the stack of each seed and fake tensor, and pytest's stacks are deep
TURNS = Path(tempfile.gettempdir())  # before any test: the processes of a session share it
# One thread for this process, which imports torch after this, and for each that a test starts; the compiler's
# too, which are slow to start.
os.environ["OMP_NUM_THREADS"] = os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
# Bytecode is kept whatever the environment says: each of dozens of processes would compile fgbench again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


# Long ones first: begun late, one of them would run alone at the end. Between the two that mostly wait, for
# Slurm and for processes of their own, are some that never do.
FIRST = (
    *("cluster/test_slurm.py", "conformance/test_methods.py", "conformance/test_cuda_steps.py"),
    *("test_wheel.py", "methods/test_conditions.py", "cli/test_commands.py"),
    *("test_api.py", "test_end_to_end.py"),
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes more than cores: many tests wait for Slurm, a browser or a runner of their own."""
    return usable_cores() + 2


def pytest_sessionstart(session: pytest.Session) -> None:
    """Side by side, each process begins with other files: what one has compiled, the next one reads."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None:  # the only process, or the one that starts the others
        return
    here = Path(__file__).parent
    files = sorted(here.rglob("test_*.py"))
    first = int(worker["workerid"].removeprefix("gw")) * len(files) // worker["workercount"]
    for file in files[first:] + files[:first]:
        with suppress(Exception, pytest.skip.Exception):  # which collection meets again, and tells
            importlib.import_module(".".join(file.relative_to(here.parent).with_suffix("").parts))
    importlib.import_module("torch._dynamo")  # as the first optimiser would, within a test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of `FIRST` in its order, then the others in their own."""
    place = {Path(__file__).parent / name: index for index, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """What is imported by now stays; the garbage collector needs half a second to go through it.

    It looks after 20,000 new objects: after 700, as by default, it takes a tenth of the time of many tests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test of real time waits until no other test runs, and holds up those that follow."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if session is None:  # the only process
        return (yield)
    alone = item.get_closest_marker("real_time")
    with (TURNS / f"fgbench-tests-{session}").open("w") as turn:
        with (TURNS / f"fgbench-tests-{session}-queue").open("w") as queue:
            # Whoever came first goes first: others' short turns would leave no moment for one alone.
            fcntl.flock(queue, fcntl.LOCK_EX)
            fcntl.flock(turn, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        return (yield)


@pytest.fixture(autouse=True, scope="module")
def garbage_of_one_file():
    """Whatever asks for a collection goes through what this file has made, and not through all before it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread():
    """What is tested may set the number of threads; the next test starts with one again."""
    import torch  # here, as the process that only hands out tests has no use for it

    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_temporary_folder(tmp_path_factory):
    """No lock of these tests is another program's: a benchmark on this machine does not hold them up.

    What the compiler keeps is all programs': headers and checks alone take it ten seconds.
    """
    own, kept = str(tmp_path_factory.mktemp("tmp")), TURNS / f"torchinductor_{getpass.getuser()}"
    kept.mkdir(exist_ok=True)
    Path(own, kept.name).symlink_to(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", own)
        patch.setattr(tempfile, "tempdir", own)
        yield


@pytest.fixture(autouse=True, scope="session")
def workers_that_start_at_once():
    """Where a runner in a test's own process starts a worker; see `warm_workers`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "subprocess", SimpleNamespace(Popen=warm_workers.start, PIPE=subprocess.PIPE))
        yield


@pytest.fixture(autouse=True, scope="session")
def brief_readings_of_rates():
    """Half a second for each method whose floor is asked for; its own tests measure as long as they want."""
    from fgbench.measurement import rates

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "MEASURED_SECONDS", warm_workers.BRIEF)
        yield


@pytest.fixture
def short_blocks(monkeypatch):
    """Timed blocks of a tenth of a millisecond: for tests of what is timed, not of how long."""
    from fgbench.running import arms

    monkeypatch.setattr(arms, "BLOCK_SECONDS", {"cpu": 1e-4, "cuda": 1e-4})
