"""The runner's end of a worker, with small programs in the worker's place, and once with a real one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import textwrap

import pytest

from fgbench.running import client
from fgbench.running.client import KILLED, WorkerDiedError, work
from tests.builders import tiny_group


@pytest.fixture
def program(monkeypatch):
    """Puts a program in the worker's place; gives the processes that were started."""
    started: list[subprocess.Popen] = []
    really = subprocess.Popen

    def install(text: str) -> list[subprocess.Popen]:
        def start(_command, **options):
            started.append(really([sys.executable, "-c", textwrap.dedent(text)], **options))
            return started[-1]

        monkeypatch.setattr(client.subprocess, "Popen", start)
        return started

    return install


def request(**changes: object) -> dict[str, object]:
    plain = {
        "phase": "memory",
        "group": dataclasses.asdict(tiny_group()),
        "data_dir": "nowhere",
        "seed": 0,
        "methods": ["backprop"],
        "executions": {},
        "optimizers": {},
    }
    return {**plain, **changes}


def test_events_come_as_they_are_sent_until_done(program):
    program("""
        import sys, json
        request = json.loads(sys.stdin.readline())
        print(json.dumps({"event": "a", "phase": request["phase"]}))
        print(json.dumps({"event": "b", "loss": float("nan")}))
        print(json.dumps({"event": "done"}))
        print(json.dumps({"event": "too late"}))
    """)
    events = list(work(request()))
    assert [e["event"] for e in events] == ["a", "b"]
    assert events[0]["phase"] == "memory"
    assert events[1]["loss"] != events[1]["loss"]


@pytest.mark.parametrize(
    ("end", "status", "detail"),
    [
        ("sys.exit('line one\\nlast line')", "error", "last line"),
        ("raise ValueError('no')", "error", "ValueError: no"),
        ("sys.exit(7)", "error", "exit code 7"),
        ("os.kill(os.getpid(), 9)", "oom", KILLED),
        ("os.kill(os.getpid(), 11)", "error", "exit code -11"),
        ('sys.stdout.write(\'{"event": "tor\'); sys.stdout.flush(); os.kill(os.getpid(), 9)', "oom", KILLED),
    ],
)
def test_a_worker_that_ends_before_it_is_done_is_said_with_its_last_words(program, end, status, detail):
    program(f"""
        import sys, os, json
        sys.stdin.readline()
        print(json.dumps({{"event": "a"}}), flush=True)
        {end}
    """)
    seen = []
    with pytest.raises(WorkerDiedError) as died:
        seen.extend(work(request()))
    assert (died.value.status, died.value.detail) == (status, detail)


def test_a_worker_that_never_reads_its_request_is_one_that_died(program):
    program("import os; os.close(0); raise SystemExit('could not start')")
    with pytest.raises(WorkerDiedError, match="could not start"):
        list(work(request(padding="x" * 10**6)))


def test_the_worker_dies_with_the_generator(program):
    (started) = program("""
        import sys, json, time
        print(json.dumps({"event": "a"}), flush=True)
        time.sleep(600)
    """)
    events = work(request())
    next(events)
    events.close()
    assert started[0].poll() is not None


def test_a_real_worker_reports_what_it_built_and_bad_input_in_one_line():
    events = list(work(request()))
    assert [e["event"] for e in events] == ["built", *["memory"] * 11]
    bad = list(work(request(group=dataclasses.asdict(tiny_group(arch="nonsense")))))
    assert [e["event"] for e in bad] == ["usage_error"]
    assert "no architecture 'nonsense'" in bad[0]["message"]


def test_what_a_users_model_prints_stays_out_of_the_reports(tmp_path):
    (tmp_path / "loud.py").write_text(
        "import os\nfrom torch import nn\nprint('import')\n"
        "def build(depth, width, in_shape, classes):\n"
        "    print('build'); os.write(1, b'raw')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))\n"
    )
    group = dataclasses.asdict(tiny_group(arch=f"{tmp_path}/loud.py:build"))
    assert next(e["event"] for e in work(request(group=group))) == "built"
