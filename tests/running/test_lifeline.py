"""No worker outlives its runner, nor what it started: real processes, real signals, inside a long step."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fgbench.running.messages import READY
from fgbench.store.run_folder import find_runs
from tests.cli.test_commands import fgbench_says, one_by_one

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")

# In a worker its build starts a process and hangs, as long as a file is there.
OWN = """
import os, subprocess, sys, time
from pathlib import Path
from torch import nn

HERE = Path(__file__).parent

def build(depth, width, in_shape, classes):
    if "fgbench.running.worker" in sys.orig_argv and (HERE / "hang").exists():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (HERE / "pids.new").write_text(f"{os.getpid()} {child.pid}")
        (HERE / "pids.new").rename(HERE / "pids")
        time.sleep(600)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))
"""
SECONDS = 3.0  # within which a worker has to be gone: one, and what a loaded machine adds


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


class Hanging:
    """A run whose worker hangs in its first step."""

    def __init__(self, folder: Path, **options: object) -> None:
        (folder / "own.py").write_text(OWN)
        (folder / "hang").touch()
        self.folder, self.out = folder, folder / "results"
        arguments = [
            *("run", "--arch", f"{folder}/own.py:build", "--device", "cpu", "--threads", "1", "--time-only"),
            *("--processes", "2", "--max-measure-seconds", "1", "--method", "backprop"),
            *("--dataset", "synthetic:shape=1x28x28,classes=4,samples=512"),
            *("--out", str(self.out)),
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
        self.runner = subprocess.Popen(one_by_one(*arguments), **{**pipes, **options}, text=True)
        assert until((folder / "pids").exists, 240), self.runner.poll()
        self.worker, self.child = map(int, (folder / "pids").read_text().split())
        assert alive(self.worker) and alive(self.child)

    def nothing_is_left(self) -> bool:
        return until(lambda: not (alive(self.worker) or alive(self.child)), SECONDS)

    def resume(self) -> None:
        """To its end, with nothing left out."""
        (self.folder / "hang").unlink()
        (run,) = find_runs(self.out)
        done = fgbench_says("run", "--resume", str(run.path))  # its workers' end is not what is tested
        assert done.returncode == 0, done.stderr
        assert run.facts()["status"] == "done"
        assert len(run.read("samples"))


@pytest.fixture
def hanging(tmp_path):
    started: list[Hanging] = []

    def start(**options: object) -> Hanging:
        started.append(Hanging(tmp_path, **options))
        return started[-1]

    yield start
    for one in started:
        for pid in (one.runner.pid, one.worker, one.child):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        one.runner.wait()


def test_sigterm_ends_the_run_as_ctrl_c_does_and_a_resume_completes_it(hanging):
    run = hanging()
    for _ in range(2):  # as `timeout` does, to the process and to its group
        run.runner.send_signal(signal.SIGTERM)
    _, errors = run.runner.communicate(timeout=240)
    assert run.runner.returncode == 143, errors
    assert "Traceback" not in errors
    assert "interrupted by SIGTERM" in errors
    assert run.nothing_is_left()
    (folder,) = find_runs(run.out)
    assert folder.facts()["status"] == "interrupted"
    assert set(folder.read("jobs")["detail"]) == {"by SIGTERM"}
    run.resume()


def test_a_terminal_that_is_closed_ends_the_run_and_its_folder_is_closed_too(hanging):
    ours, theirs = pty.openpty()

    def take_the_terminal() -> None:
        import fcntl
        import termios

        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as nohup has it ignored
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    terminal = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    run = hanging(**terminal, preexec_fn=take_the_terminal)
    os.close(theirs)
    os.close(ours)
    assert run.runner.wait(240) == 129
    assert run.nothing_is_left()
    (folder,) = find_runs(run.out)
    assert folder.facts()["status"] == "interrupted"


RUNNER = """
import subprocess, sys
from fgbench.running import client
from fgbench.running.messages import Done
from fgbench.running.task import Task
start = subprocess.Popen
client.subprocess.Popen = lambda _command, **options: start([sys.executable, *sys.argv[1:]], **options)
class Nothing(Task):
    request = Done
    def work(self, asked, report): ...
list(client.work(Nothing(), Done()))
"""
WORKER = """
import ctypes, os, subprocess, sys, time
from pathlib import Path
from fgbench.running.lifeline import tie_to_runner, watch
pipe = tie_to_runner()
os.read(pipe, 100)
watch(pipe)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pids = Path(sys.argv[1])
pids.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
pids.with_suffix(".new").rename(pids)
if sys.argv[2] == "holding the GIL":
    ctypes.PyDLL(None).sleep(600)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["asleep", "holding the GIL"])
def test_kill_9_of_the_runner_ends_the_worker_too(tmp_path, how):
    pids = tmp_path / "pids"
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, "-c", WORKER, pids, how])
    assert until(lambda: pids.exists() or runner.poll() is not None, 240)
    assert runner.poll() is None
    worker, child = map(int, pids.read_text().split())
    assert alive(worker) and alive(child)
    runner.kill()
    runner.wait()
    gone = until(lambda: not alive(worker), SECONDS)
    for pid in (worker, child):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    assert gone or (how != "asleep" and sys.platform != "linux")


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_without_the_kernel_s_help_the_pipe_s_end_takes_the_whole_group(tmp_path):
    pids = tmp_path / "pids"
    alone = WORKER.replace("watch(pipe)", "ctypes.CDLL(None).prctl(1, 0); watch(pipe)")
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, "-c", alone, pids, "asleep"])
    assert until(lambda: pids.exists() or runner.poll() is not None, 240)
    assert runner.poll() is None
    worker, child = map(int, pids.read_text().split())
    runner.kill()
    runner.wait()
    assert until(lambda: not (alive(worker) or alive(child)), SECONDS)


def test_a_runner_that_was_gone_before_the_request_came_made_none():
    done = subprocess.run(
        [sys.executable, "-m", "fgbench.running.worker"],
        input='{"phase": "ti',
        text=True,
        capture_output=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, READY, "")
