"""The runner's end of a worker, with small programs in the worker's place, and once with a real one."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from itertools import islice
from typing import Any

import pytest

from fgbench.plan import Group
from fgbench.running import client
from fgbench.running.choices import Choices
from fgbench.running.client import KILLED, Order, WorkerDiedError, lines_of, started_ahead, work
from fgbench.running.messages import Began, Built, Failed, FirstCall, Refused
from fgbench.running.phase import OfGroup
from fgbench.running.phases import find
from fgbench.running.phases.modes import ModesRequest
from fgbench.running.phases.train import Evaluated, TrainRequest
from fgbench.running.trainees import Protocol
from fgbench.training.loop import Budget
from tests.builders import ASCII, tiny_group


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


TASK = find("memory")


def request(group: Group | None = None, **changes: object) -> OfGroup:
    plain: dict[str, Any] = {"data_dir": "nowhere", "seed": 0, "methods": ("backprop",), "choices": Choices()}
    return OfGroup(group=group or tiny_group(), **{**plain, **changes})


def test_a_ctrl_c_while_a_worker_is_ended_is_not_lost(program, monkeypatch):
    """A generator that is forgotten would be closed all the same, and Python ignore what is raised there."""
    really = client._end

    def interrupted(worker: client.Started) -> None:
        really(worker)
        raise KeyboardInterrupt

    program('print(\'{"kind": "Done", "facts": {}}\')')
    monkeypatch.setattr(client, "_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(work(TASK, request()))


def test_events_come_as_they_are_sent_until_done(program):
    program("""
        import sys, json
        request = json.loads(sys.stdin.readline())
        print(json.dumps({"kind": "Refused", "facts": {"message": request["task"]}}))
        print(json.dumps({"kind": "FirstCall", "facts": {"method": "m", "seconds": float("nan")}}))
        print(json.dumps({"kind": "Done", "facts": {}}))
        print(json.dumps({"kind": "too late"}))
    """)
    first, second = work(TASK, request())
    assert first == Refused("fgbench.running.phases.memory:Memory")
    assert isinstance(second, FirstCall)
    assert second.seconds != second.seconds


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ('{"kind": "Nonsense", "facts": {}}', "unknown event Nonsense"),
        ('{"kind": "Failed", "facts": {"method": "m", "status": "oom"}}', "malformed Failed: detail: "),
        ('{"kind": "FirstCall", "facts": {"method": "m", "seconds": "1"}}', "malformed FirstCall: seconds: "),
        ('{"kind": "Done", "facts": {"more": 1}}', "malformed Done: more: "),
        ("Hello", "not an event: Hello"),
    ],
)
def test_an_event_that_is_unknown_or_malformed_ends_the_worker_and_is_named(program, line, detail):
    program(f"""
        import sys
        sys.stdin.readline()
        print({line!r})
    """)
    with pytest.raises(WorkerDiedError) as died:
        list(work(TASK, request()))
    assert died.value.status == "error"
    assert died.value.detail.startswith(detail)


@pytest.mark.parametrize(
    ("end", "status", "detail"),
    [
        ("sys.exit('line one\\nlast line')", "error", "last line"),
        ("raise ValueError('no')", "error", "ValueError: no"),
        ("sys.exit(7)", "error", "exit code 7"),
        ("raise RuntimeError('CUDA out of memory.')", "oom", "RuntimeError: CUDA out of memory."),
        (
            "raise RuntimeError('CUDA error: out of memory\\nCompile with `TORCH_USE_CUDA_DSA`.\\n')",
            "oom",
            "RuntimeError: CUDA error: out of memory",
        ),
        ("os.kill(os.getpid(), 9)", "oom", KILLED),
        ("os.kill(os.getpid(), 11)", "error", "killed (signal 11, Segmentation fault)"),
        (
            "print('a log', file=sys.stderr, flush=True); os.kill(os.getpid(), 11)",
            "error",
            "killed (signal 11, Segmentation fault): a log",
        ),
        ('sys.stdout.write(\'{"event": "tor\'); sys.stdout.flush(); os.kill(os.getpid(), 9)', "oom", KILLED),
    ],
)
def test_a_worker_that_ends_before_it_is_done_is_said_with_its_last_words(program, end, status, detail):
    program(f"""
        import sys, os, json
        sys.stdin.readline()
        print(json.dumps({{"kind": "Refused", "facts": {{"message": "a"}}}}), flush=True)
        {end}
    """)
    seen = []
    with pytest.raises(WorkerDiedError) as died:
        seen.extend(work(TASK, request()))
    assert (died.value.status, died.value.detail) == (status, detail)


METHODS = ("first", "deadly", "last")
MAKES_READY = """
    import sys, os, json

    def say(event, /, **facts):
        print(json.dumps({"kind": event, "facts": facts}), flush=True)

    for method in json.loads(sys.stdin.readline())["request"]["methods"]:
        say("Began", method=method)
        if method == "deadly":
            os.kill(os.getpid(), 11)
        say("FirstCall", method=method, seconds=1.0)
        say("Began", method="")
        AFTER
    say("Done")
"""


def test_a_method_that_ends_its_worker_has_failed_and_another_worker_does_the_others(program):
    started = program(MAKES_READY.replace("AFTER", ""))
    events = [e for e in work(TASK, request(methods=METHODS)) if not isinstance(e, Began)]
    assert len(started) == 2
    assert events == [
        FirstCall("first", 1.0),
        Failed("deadly", "error", "it ended its process: killed (signal 11, Segmentation fault)"),
        FirstCall("first", 1.0),
        FirstCall("last", 1.0),
    ]


def test_reverse_mode_that_ends_the_worker_is_named_in_the_place_of_the_method_that_it_checks(program):
    checks = MAKES_READY.replace('"Began", method=method', '"Began", method=method, checking=True')
    program(checks.replace("AFTER", ""))
    said = "reverse mode, by which its step is checked: killed (signal 11, Segmentation fault)"
    failed = [event for event in work(TASK, request(methods=METHODS)) if isinstance(event, Failed)]
    assert failed == [Failed("deadly", "error", f"its process ended in {said}")]
    with pytest.raises(WorkerDiedError, match=re.escape(f"at deadly, in {said}")):
        list(work(TASK, request(methods=("deadly",))))


@pytest.mark.parametrize(
    ("methods", "after", "place"),
    [
        (("deadly",), "", "at deadly: "),
        (METHODS, 'say("PeakFound", method=method, kind="parameters", bytes=1)', "at deadly: "),
        (("first",), "os.kill(os.getpid(), 11)", ""),
    ],
    ids=["the only method", "something was found", "it is at none"],
)
def test_otherwise_all_methods_end_with_the_worker_and_it_is_said_where(program, methods, after, place):
    started = program(MAKES_READY.replace("AFTER", after))
    with pytest.raises(WorkerDiedError) as died:
        list(work(TASK, request(methods=methods)))
    assert died.value.detail == f"{place}killed (signal 11, Segmentation fault)"
    assert len(started) == 1


def test_a_worker_that_ends_of_the_base_is_not_started_again(program):
    started = program("""
        import sys, os
        sys.stdin.readline()
        print('{"kind": "Began", "facts": {"method": "base"}}', flush=True)
        os.kill(os.getpid(), 11)
    """)
    with pytest.raises(WorkerDiedError, match="signal 11, Segmentation fault"):
        list(islice(work(TASK, request(methods=("first",))), 20))
    assert len(started) == 1


def test_a_worker_that_never_reads_its_request_is_one_that_died(program):
    program("import os; os.close(0); raise SystemExit('could not start')")
    with pytest.raises(WorkerDiedError, match="could not start"):
        list(work(TASK, request(data_dir="x" * 10**6)))


def test_the_worker_dies_with_the_generator(program):
    (started) = program("""
        import sys, json, time
        print(json.dumps({"kind": "Refused", "facts": {"message": "a"}}), flush=True)
        time.sleep(600)
    """)
    events = work(TASK, request())
    next(events)
    events.close()
    assert started[0].poll() is not None


def test_a_real_worker_reports_what_it_built_and_bad_input_in_one_line():
    events = list(work(TASK, request()))
    assert [type(e).__name__ for e in events if not isinstance(e, Began)] == ["Built", *["PeakFound"] * 11]
    bad = list(work(TASK, request(tiny_group(arch="nonsense"))))
    (refused,) = bad
    assert isinstance(refused, Refused)
    assert "no architecture 'nonsense'" in refused.message


DEADLY = """
import os
from torch import equal, is_grad_enabled, nn

class Deadly(nn.Sequential):  # of a method that moves its weights and looks again, without a graph
    def forward(self, x):
        seen = self.__dict__.setdefault("seen", self[1].weight.detach().clone())
        if self.training and not is_grad_enabled() and not equal(seen, self[1].weight):
            os.kill(os.getpid(), 11)
        return super().forward(x)

def build(depth, width, in_shape, classes):
    return Deadly(nn.Flatten(), nn.Linear(36, classes))
"""


def test_a_method_that_ends_its_worker_while_it_warms_up_is_left_out_and_the_others_are_trained(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    group, rates = tiny_group(arch=f"{tmp_path}/deadly.py:build"), {"backprop": 0.1, "spsa": 0.1}
    plain = {"data_dir": "nowhere", "seed": 0, "choices": Choices(), "snapshot": f"{tmp_path}/state.pt"}
    protocol = Protocol(Budget(60.0, iterations=3), every=3)
    train = TrainRequest(group=group, methods=tuple(rates), protocol=protocol, learning_rates=rates, **plain)
    events = list(work(find("train"), train))
    (failed,) = (e for e in events if isinstance(e, Failed))
    assert failed.method == "spsa"
    assert failed.detail.startswith("it ended its process: killed (signal 11, Segmentation fault)")
    assert {e.method for e in events if isinstance(e, Evaluated)} == {"backprop"}


def test_a_method_that_ends_the_worker_that_looks_for_ways_is_named(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    group, plain = tiny_group(arch=f"{tmp_path}/deadly.py:build"), {"seconds": 0.1, "best": True, "number": 1}
    asked = ModesRequest(
        group=group, data_dir="nowhere", seed=0, methods=("spsa", "backprop"), choices=Choices(), **plain
    )
    with pytest.raises(WorkerDiedError, match=r"^at spsa: killed \(signal 11, Segmentation fault\)"):
        list(work(find("modes"), asked))


def test_the_method_at_whose_memory_the_worker_ended_is_named(tmp_path):
    (tmp_path / "deadly.py").write_text(DEADLY)
    group = tiny_group(arch=f"{tmp_path}/deadly.py:build")
    with pytest.raises(WorkerDiedError, match=r"^at spsa: killed \(signal 11, Segmentation fault\)"):
        list(work(TASK, request(group, methods=("backprop", "spsa"))))


def test_a_worker_and_its_runner_speak_utf_8_whatever_the_locale(monkeypatch):
    for name, value in ASCII.items():
        monkeypatch.setenv(name, value)
    (refused,) = work(TASK, request(tiny_group(arch="modèle")))
    assert isinstance(refused, Refused)
    assert "no architecture 'modèle'" in refused.message


def test_what_a_users_model_prints_stays_out_of_the_reports(tmp_path):
    (tmp_path / "loud.py").write_text(
        "import os\nfrom torch import nn\nprint('import')\n"
        "def build(depth, width, in_shape, classes):\n"
        "    print('build'); os.write(1, b'raw')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(36, classes))\n"
    )
    group = tiny_group(arch=f"{tmp_path}/loud.py:build")
    assert isinstance(next(work(TASK, request(group))), Built)


class TestStartedAhead:
    """Workers that are started side by side; each says in its first line which one it is."""

    PROGRAM = """
        import os, sys
        print("ready")
        sys.stdout.flush()
        sys.stdin.readline()
        print(os.getpid(), "fgbench-cold" in os.environ.get("TORCHINDUCTOR_CACHE_DIR", ""))
        sys.stdout.flush()
        sys.stdin.readline()
    """

    def said_by(self, cold: bool = False) -> str:
        lines = lines_of(Order("task", "{}", cold))
        line = next(lines)
        lines.close()
        return line

    def test_each_order_has_one_and_all_end_with_the_block(self, program):
        started = program(self.PROGRAM)
        with started_ahead(2):
            assert not started, "none before there is work"
            found = [self.said_by()]
            assert len(started) == 2
            found.append(self.said_by())
            assert len(started) == 2
            found.append(self.said_by())
            assert len(started) == 4
        assert found == [f"{process.pid} False\n" for process in started[:3]]
        assert all(process.poll() is not None for process in started)

    def test_one_that_compiles_afresh_is_started_with_its_own_caches(self, program):
        started = program(self.PROGRAM)
        with started_ahead(2):
            assert self.said_by(cold=True) == f"{started[0].pid} True\n"
            assert len(started) == 1

    def test_outside_the_block_each_is_started_by_itself(self, program):
        started = program(self.PROGRAM)
        with started_ahead(2):
            self.said_by()
        assert self.said_by() == f"{started[2].pid} False\n"
        assert len(started) == 3

    def test_one_that_died_while_it_waited_is_an_error_of_its_work(self, program):
        started = program("import sys; sys.exit('no torch here')")
        with started_ahead(2):
            with pytest.raises(WorkerDiedError, match="no torch here"):
                list(work(TASK, request()))
            assert len(started) == 2
