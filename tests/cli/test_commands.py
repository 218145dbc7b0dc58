"""The command line: what a user types, and what comes back; in a process of its own where that matters."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

import fgbench
import fgbench.errors
from fgbench import api, cli
from fgbench.cli.doctor import _noise, _notes
from fgbench.plan.config import BEST_FORWARD
from fgbench.regression.baseline import write_baseline
from fgbench.store.run_folder import find_runs
from fgbench.store.schema import TABLES
from tests.builders import ASCII
from tests.regression.test_entries import timed

TIMED = [
    *("--dataset", "synthetic:shape=1x8x8,classes=4,samples=512"),  # made in no time in each worker
    *("--arch", "mlp", "--depth", "1", "--width", "16", "--device", "cpu", "--threads", "1"),
    *("--method", "backprop", "--method", "forward"),
    *("--processes", "2", "--max-measure-seconds", "1"),
]
TRAINED = ["--seeds", "2", "--max-train-seconds", "0.3"]
TINY = [*TIMED, *TRAINED]
# With an update that is given, no time goes into finding the fastest one.
GIVEN = ["backprop:update=fused" if a == "backprop" else a for a in TIMED]
HEAVY = ("torch", "torchvision", "pandas", "matplotlib", "numpy", "scipy", "sklearn")

USER_FILE = """
from torch import nn

def build(depth, width, in_shape, classes):
    print("a user's own chatter")
    return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.Tanh(), nn.Linear(width, classes))

def raises(depth, width, in_shape, classes):
    raise ValueError("boom")

def number(depth, width, in_shape, classes):
    return 3

def wrong_shape(depth, width, in_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes + 1))
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fgbench", *map(str, arguments)]


def one_by_one(*arguments: str) -> list[str]:
    """The same with no worker started ahead: for a run that is ended before it needs a second one."""
    code = "from fgbench.running import run; run.MOST_AT_ONCE = 1; from fgbench import cli; cli.main()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def fgbench_says(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What the command prints and its exit code, from this process: starting another takes seconds.

    Warnings that Python shows by default are lines on standard error, as they are to a user.
    """
    out, errors = StringIO(), StringIO()
    with (
        chdir(cwd or "."),
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(out),
        redirect_stderr(errors),
        warnings.catch_warnings(record=True) as warned,
        pytest.raises(SystemExit) as ended,
    ):
        warnings.simplefilter("default")
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", hidden)
        patch.setattr(sys, "argv", ["fgbench", *map(str, arguments)])
        cli.main()
    said = errors.getvalue() + "".join(f"{w.category.__name__}: {w.message}\n" for w in warned)
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out.getvalue(), said)


def own_process_says(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=240, cwd=cwd)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("results")
    done = fgbench_says("run", *TINY, "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(USER_FILE)
    return path


def test_a_defect_is_told_from_a_ratio_that_got_worse(monkeypatch, tmp_path):
    """Which `fgbench check` says with exit code 1, Python's own for an exception."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("fgbench.regression.baseline.read_baseline", broken)
    done = fgbench_says("check", str(tmp_path))
    assert done.returncode == 70
    assert done.stderr.endswith("ZeroDivisionError: a defect\n")


@pytest.mark.parametrize("entry", ["fgbench.cli", "fgbench"])
def test_the_command_line_starts_without_heavy_imports(entry: str) -> None:
    code = f"import sys, {entry}; print([m for m in {HEAVY} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_completing_a_name_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom fgbench.specs import registry\n"
        "assert 'mlp' in registry.names('architectures') and 'forward' in registry.names('methods')\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_version_is_the_packages() -> None:
    assert own_process_says("--version").stdout.strip() == f"fgbench {fgbench.__version__}"


def test_help_gives_every_option_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "dumb")
    shown = fgbench_says("run", "--help").stdout
    flags = ("--quick", "--time-only", "--train-only", "--isolated", "--dry-run", "--json", "--help")
    flags += ("--verbose",)
    options = [line for line in shown.splitlines() if re.search(r"^\W+--\w", line)]
    assert len(options) > 15
    silent = [o for o in options if "default" not in o and not any(flag in o for flag in flags)]
    assert not silent, silent


def test_list_names_everything_registered_with_its_options() -> None:
    listed = fgbench_says("list").stdout
    for name in ("mlp", "cnn", "logreg", "digits", "fashion-mnist", "synthetic", "backprop", "forward"):
        assert re.search(rf"^\s*{name}\b", listed, re.MULTILINE), name
    assert "structure=gaussian" in listed
    assert "update=best" in listed
    (compared,) = re.findall(r"fgbench run compares ([^.]*)\.", " ".join(listed.split()))
    assert compared == f"backprop, forward (as published), {BEST_FORWARD} (the best known)"


def test_several_batches_are_several_groups() -> None:
    shown = fgbench_says("run", "--batch", "8", "--batch", "16", "--depth", "1", "--width", "4", "--dry-run")
    assert re.findall(r"^ ?(mlp-\S+)", shown.stdout, re.MULTILINE) == ["mlp-d1-w4-b8", "mlp-d1-w4-b16"]


def test_doctor_says_what_is_here_and_measures_the_noise() -> None:
    said = fgbench_says("doctor", "--device", "cpu", "--threads", "1", "--seconds", "1").stdout
    assert re.search(r"backprop against itself: \d\.\d+ \[", said), said
    assert "torch" in said


@pytest.mark.parametrize(("watts", "blind"), [(None, True), (700.0, False)])
def test_doctor_says_that_a_gpus_throttling_cannot_be_seen(tmp_path, watts, blind) -> None:
    """No run would say so: a GPU that tells nothing looks like one that is never throttled."""
    environment = {"gpu": {"power_limit_watts": watts}, "governor": None, "load_1min": 0.0}
    assert any("NVML does not tell" in line for line in _notes(tmp_path, environment)) == blind
    assert not any("NVML" in line for line in _notes(tmp_path, {**environment, "gpu": None}))


@pytest.mark.parametrize(("processes", "said"), [(1, "in one process;"), (3, "in 3 processes;")])
def test_doctor_says_in_how_many_processes_the_noise_was_measured(processes, said, monkeypatch) -> None:
    row = {"role": "aa", "ratio": 1.0, "ratio_low": 0.99, "ratio_high": 1.01, "rounds": 9}
    found = pd.DataFrame([{**row, "processes": processes}])
    monkeypatch.setattr(api, "compare", lambda *_, **__: found)
    assert said in _noise("cpu", 1, 1.0)


def test_doctor_compares_what_it_knows_and_stores_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["fgbench.cli.doctor"], "PROCESSES", 2)
    monkeypatch.setattr(sys.modules["fgbench.cli.doctor"], "NOISE_SECONDS", 0.5)
    asked = ("--device", "cpu", "--threads", "1", "--noise", "--comparisons", "2", "--out", str(tmp_path))
    done = fgbench_says("doctor", *asked)
    assert done.returncode == 0, done.stderr
    assert "smallest difference" in " ".join(done.stdout.split())
    assert len((tmp_path / "noise.csv").read_text().splitlines()) == 1 + 3


def test_a_run_leaves_every_table_and_prints_its_path(tiny_run: tuple[Path, str]) -> None:
    out, printed = tiny_run
    (run,) = find_runs(out)
    assert run.facts()["status"] == "done"
    for table in set(TABLES) - {"modes", "load", "variants"}:  # of `--exec best`, and of a GPU
        assert len(run.read(table)), f"{table}.csv is empty"
    assert run.path.name in printed.replace("\n", "")


def test_a_run_says_in_words_what_it_found(tiny_run: tuple[Path, str]) -> None:
    words = " ".join(tiny_run[1].split())
    found = re.search(r"forward takes ([\d.]+) times as long a step as backprop \(95 % interval", words)
    assert found, words
    ratios = find_runs(tiny_run[0])[0].read("ratios")
    stored = ratios[(ratios["method"] == "forward") & (ratios["role"] == "method")]["ratio"].item()
    assert float(found[1]) == pytest.approx(stored, rel=0.05)


def test_the_jobs_of_a_run_are_matched(tiny_run: tuple[Path, str]) -> None:
    jobs = find_runs(tiny_run[0])[0].read("jobs")
    for (phase, seed), same in jobs.groupby(["phase", "seed"]):
        for column in ("weights_hash", "batches_hash", "contract", "parameters"):
            assert same[column].nunique() == 1, f"{column} differs within {phase}, seed {seed}"


def test_results_load_as_dataframes(tiny_run: tuple[Path, str]) -> None:
    summary = fgbench.load(tiny_run[0])
    assert list(summary["method"]) == ["backprop", "forward"]
    assert summary["ratio"].iloc[0] == 1
    assert len(fgbench.load(tiny_run[0], "samples")) > 20


def test_plot_writes_charts_of_a_run(tiny_run: tuple[Path, str], tmp_path: Path) -> None:
    done = fgbench_says("plot", str(tiny_run[0]), "--out", str(tmp_path), "--format", "svg")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.svg"))) >= 4


@pytest.mark.parametrize(
    ("factor", "code", "says"), [(1.0, 0, "notice"), (0.5, 1, "error"), (0.87, 3, "warning")]
)
def test_a_run_is_held_against_a_baseline_and_the_exit_code_is_the_answer(
    tmp_path: Path, factor: float, code: int, says: str
) -> None:
    results, baseline = tmp_path / "results", tmp_path / "baseline.csv"
    for name in "abc":
        timed(results / name)
    made = fgbench_says("baseline", str(results), "--out", str(baseline))
    assert made.returncode == 0, made.stderr
    header, *rows = (line.split(",") for line in baseline.read_text().splitlines())
    for row in rows:
        for column in ("ratio", "low", "high"):
            at = header.index(column)
            row[at] = f"{factor * float(row[at]):.5g}"
    baseline.write_text("".join(",".join(row) + "\n" for row in (header, *rows)))
    asked = ("--baseline", str(baseline), "--tolerance", "20%", "--format", "github")
    found = fgbench_says("check", str(results), *asked)
    assert found.returncode == code, found.stdout + found.stderr
    assert found.stdout.startswith(f"::{says}")
    assert fgbench_says("check", str(results), *asked, "--inconclusive", "pass").returncode == code % 3


def test_series_that_differ_in_the_optimiser_alone_have_charts_of_their_own(tmp_path: Path) -> None:
    runs = [timed(tmp_path / name) for name in ("1", "2")]
    facts = runs[1].facts()
    runs[1]._write({**facts, "groups": [{**g, "optimizer": "adam"} for g in facts["groups"]]})
    said = fgbench_says("history", str(tmp_path), "--out", str(tmp_path / "charts"))
    drawn = [line for line in said.stdout.splitlines() if line.startswith("drawn ")]
    assert len(drawn) == len(set(drawn)) == 4
    assert len([path for path in (tmp_path / "charts").iterdir() if "with-adam" in path.name]) == 2


@pytest.mark.parametrize("variables", [ASCII, {"PYTHONIOENCODING": "ascii"}])
def test_a_verdict_does_not_depend_on_what_the_terminal_can_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    results, baseline = tmp_path / "results", tmp_path / "baseline.csv"
    for name in "abc":
        facts = (run := timed(results / name)).facts()
        facts["groups"][0]["arch"] = "modèle"
        run._write(facts)
    assert fgbench_says("baseline", str(results), "--out", str(baseline)).returncode == 0
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = own_process_says("check", str(results), "--baseline", str(baseline), "--tolerance", "20%")
    assert (found.returncode, found.stderr) == (0, "")
    assert "mod?le" in found.stdout
    assert "PASS" in found.stdout


def test_a_check_proves_that_it_can_fail_and_fails_where_it_could_not(tmp_path: Path) -> None:
    results, baseline, out = tmp_path / "results", tmp_path / "baseline.csv", tmp_path / "out"
    for name in "abc":
        timed(results / name)
    assert fgbench_says("baseline", str(results), "--out", str(baseline)).returncode == 0
    asked = ("check", "--self-test", "--baseline", str(baseline), "--out", str(out), "--slowdown")
    able = fgbench_says(*asked, "90%")
    assert able.returncode == 0, able.stdout + able.stderr
    assert "2 REGRESSED" in able.stdout
    assert (out / "gate.csv").read_text().count("REGRESSED,REGRESSED") == 2
    unable = fgbench_says(*asked, "6%")
    assert (unable.returncode, "WRONG" in unable.stdout) == (1, True)
    without = fgbench_says("check", str(results), *asked[1:], "90%")
    assert (without.returncode, "--slowed" in without.stderr) == (2, True)


@pytest.mark.parametrize("how", ["--run", "--self-test"])
def test_a_baseline_without_a_row_proves_nothing(tmp_path: Path, how: str) -> None:
    write_baseline(tmp_path / "b.csv", [])
    done = fgbench_says("check", how, "--baseline", str(tmp_path / "b.csv"))
    assert (done.returncode, "holds no ratio" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_two_results_side_by_side_and_a_history(tmp_path: Path) -> None:
    for name in "abcdef":
        timed(tmp_path / name)
    asked = ("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--format", "markdown")
    compared = fgbench_says(*asked)
    assert compared.returncode == 0, compared.stderr
    assert "| no difference seen |" in compared.stdout
    assert "one run each" in compared.stdout
    assert (tmp_path / "b" / "charts" / "changes.png").stat().st_size > 0
    history = fgbench_says("history", str(tmp_path), "--format", "json")
    assert history.returncode == 0, history.stderr
    assert [stretch["runs"] for stretch in json.loads(history.stdout)] == [6, 6]
    assert len(list((tmp_path / "charts").glob("history_*.png"))) == 2


def test_json_on_standard_output_is_json_alone(user_file: Path, tmp_path: Path) -> None:
    done = fgbench_says(
        *("run", "--arch", f"{user_file}:build", "--width", "16", "--quick", "--time-only", "--json"),
        *("--max-measure-seconds", "1", "--out", str(tmp_path / "results")),
    )
    result = json.loads(done.stdout)
    assert [row["method"] for row in result["results"]] == ["backprop", "forward", BEST_FORWARD]
    assert Path(result["path"]).is_dir()


BAD_INPUTS = {
    "unknown architecture": (["run", "--arch", "nope"], "cnn, logreg, mlp"),
    "unknown method": (["run", "--method", "nope"], "choose from backprop,"),
    "unknown method option": (["run", "--method", "forward:foo=1"], "structure"),
    "unknown option value": (["run", "--method", "forward:structure=foo"], "gaussian"),
    "unknown dataset": (["run", "--dataset", "nope"], "digits"),
    "depth 0": (["run", "--depth", "0"], "at least 1"),
    "negative depth": (["run", "--depth", "-3"], "at least 1"),
    "no whole number": (["run", "--depth", "x"], "--depth"),
    "width 0": (["run", "--width", "0"], "at least 1"),
    "batch 0": (["run", "--batch", "0"], "at least 1"),
    "batch above the data": (["run", "--device", "cpu", "--batch", "5000"], "1437"),
    "learning rate that is no number": (["run", "--lr", "fast"], "a number, several with commas, or search"),
    "accuracy above 1": (["run", "--target-accuracy", "90"], "at most 1"),
    "resume of what is no run": (["run", "--resume", "{tmp}"], "run.json"),
    "target not positive": (["run", "--target-loss", "-1"], "positive"),
    "absent device": (["run", "--device", "cuda:99"], "it sees cpu"),
    "folder that cannot be written": (["run", "--depth", "1", "--out", "/proc/nowhere"], "cannot be written"),
    "unknown flag": (["run", "--nope"], "--nope"),
    "unknown command": (["nope"], "nope"),
    "data that is not there": (["run", "--dataset", "mnist", "--data-dir", "{tmp}"], "digits"),
    "results folder that is not there": (["plot", "{tmp}/absent"], "no such folder"),
    "report of a folder that is not there": (["report", "{tmp}/absent"], "absent: there is no such folder"),
    "results folder without a run": (["plot", "{tmp}"], "holds no run"),
    "check of nothing": (["check"], "either a folder of results or --run"),
    "check of results and a run": (["check", "{tmp}", "--run"], "either a folder of results or --run"),
    "baseline that is not there": (["check", "{tmp}", "--baseline", "{tmp}/b.csv"], "b.csv` writes one."),
    "tolerance that is no share": (["check", "{tmp}", "--tolerance", "five"], "5% or 0.05"),
    "slowdown that is no share": (["check", "--self-test", "--slowdown", "x"], "5% or 0.05"),
    "slowdown below the tolerance": (["check", "--self-test", "--slowdown", "5%"], "more than the tolerance"),
    "unknown format of a comparison": (["compare", "{tmp}", "{tmp}", "--format", "xml"], "table, markdown"),
    "unknown format of a history": (["history", "{tmp}", "--format", "xml"], "table, markdown"),
    "history of nothing": (["history", "{tmp}"], "holds no run"),
    "no repeat": (["run", "--repeat", "0"], "at least 1"),
    "repeats as one object": (["run", "--repeat", "2", "--json"], "leave --repeat out"),
    "unknown format of a check": (["check", "{tmp}", "--format", "xml"], "table, markdown, junit"),
    "no ratio for a baseline": (["baseline", "{tmp}"], "holds no run"),
    "user's file that is not there": (["run", "--arch", "{tmp}/absent.py:build"], "no file"),
    "user's file without a function": (["run", "--arch", "own.py"], "as in own.py:build."),
    "user's build that raises": (["run", "--arch", "{user}:raises"], "own.py:raises"),
    "user's build that gives a number": (["run", "--arch", "{user}:number"], "own.py:number"),
    "user's model of another shape": (["run", "--arch", "{user}:wrong_shape"], "own.py:wrong_shape"),
}


def is_one_line(says: Callable[..., subprocess.CompletedProcess[str]], case: str, user: Path) -> None:
    arguments, hint = BAD_INPUTS[case]
    tmp_path = user.parent
    done = says(*(a.format(tmp=tmp_path, user=user) for a in arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert hint in done.stderr
    assert not (tmp_path / "results").exists(), "bad input left a results folder behind"


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_one_line_and_exit_code_2(case: str, user_file: Path) -> None:
    is_one_line(fgbench_says, case, user_file)


@pytest.mark.parametrize("case", ["unknown method", "unknown flag", "user's build that raises"])
def test_bad_input_is_one_line_in_a_process_of_its_own_too(case: str, user_file: Path) -> None:
    """Of the command line's own errors, of the parser's, and of what a user's file does."""
    is_one_line(own_process_says, case, user_file)


def damaged(run: Path, damage: str) -> None:
    if damage == "truncated inside":
        lines = (run / "samples.csv").read_text().splitlines(keepends=True)
        lines[2] = lines[2][: len(lines[2]) // 2] + "\n"
        (run / "samples.csv").write_text("".join(lines))
    elif damage == "other schema version":
        facts = json.loads((run / "run.json").read_text()) | {"schema_version": 999}
        (run / "run.json").write_text(json.dumps(facts))
    else:
        (run / "run.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "hint"),
    [
        ("truncated inside", "samples.csv:3"),
        ("other schema version", "schema version 999"),
        ("broken run.json", "not JSON"),
    ],
)
def test_a_damaged_results_folder_is_named(
    tiny_run: tuple[Path, str], tmp_path: Path, damage: str, hint: str
) -> None:
    source = find_runs(tiny_run[0])[0].path
    copy = tmp_path / "run"
    copy.mkdir()
    for file in source.glob("*.*"):
        (copy / file.name).write_bytes(file.read_bytes())
    damaged(copy, damage)
    with pytest.raises(fgbench.errors.ResultsError, match=re.escape(hint)):
        fgbench.load(tmp_path, "samples")


def start_long_run(out: Path) -> subprocess.Popen[str]:
    # SIGINT as a shell gives it to a foreground job, whatever this test was started under.
    return subprocess.Popen(
        command("run", *GIVEN, "--time-only", "--max-measure-seconds", "600", "--out", str(out)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for_samples(out: Path, process: subprocess.Popen[str], lines: int) -> Path:
    for _ in range(2400):
        for file in out.glob("*/samples.csv"):
            if file.read_bytes().count(b"\n") > lines:
                return file.parent
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("no samples after four minutes")


def test_ctrl_c_saves_what_was_measured_and_exits_with_130(tmp_path: Path) -> None:
    process = start_long_run(tmp_path)
    wait_for_samples(tmp_path, process, lines=50)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    (run,) = find_runs(tmp_path)
    assert run.facts()["status"] == "interrupted"
    jobs = run.read("jobs")
    assert set(jobs["status"][jobs["phase"] == "time"]) == {"interrupted"}
    assert len(run.read("samples")) >= 50
    assert "forward" in printed


def test_a_killed_run_is_resumed_and_one_that_changed_is_not(tmp_path: Path) -> None:
    process = subprocess.Popen(
        one_by_one("run", *GIVEN, *TRAINED, "--out", str(tmp_path)), stderr=subprocess.PIPE, text=True
    )
    wait_for_samples(tmp_path, process, 30)
    process.kill()
    process.communicate(timeout=60)
    (run,) = find_runs(tmp_path)
    assert len(run.read("samples")) >= 30, "kill -9 leaves every finished row readable"
    done = fgbench_says("run", "--resume", str(run.path))
    assert done.returncode == 0, done.stderr
    facts, jobs = run.facts(), run.read("jobs")
    assert facts["status"] == "done"
    assert len(facts["resumed"]) == 1
    assert not jobs["job"].duplicated().any()
    assert set(jobs["phase"]) == {"time", "cost", "memory", "tune", "train", "quality"}
    assert not run.read("samples")[["method", "role", "process", "round", "warm_up"]].duplicated().any()
    seeds = facts["config"]["seeds"]
    more = fgbench_says("run", "--resume", str(run.path), "--seeds", str(seeds + 1), "--verbose")
    assert more.returncode == 0, more.stderr
    assert f"seeds were added to the {seeds} that this run had" in " ".join(more.stdout.split())
    assert run.read("curves")["seed"].nunique() == run.facts()["config"]["seeds"] == seeds + 1
    assert run.seeds_before == [seeds]
    facts["groups"][0]["contract"] = "another"
    (run.path / "run.json").write_text(json.dumps(facts))
    refused = fgbench_says("run", "--resume", str(run.path))
    assert (refused.returncode, "--like" in refused.stderr) == (2, True)


def test_a_run_of_an_older_version_is_not_resumed(tmp_path: Path) -> None:
    run = timed(tmp_path)
    facts = run.facts() | {"schema_version": 2}
    (run.path / "run.json").write_text(json.dumps(facts))
    refused = fgbench_says("run", "--resume", str(run.path))
    assert (refused.returncode, "--like" in refused.stderr) == (2, True), refused.stderr


@pytest.mark.parametrize(
    ("changes", "environment", "line"),
    [
        ({"fgbench_version": "0.0.9"}, {}, "fgbench 0.0.9 began it, and this is"),
        ({}, {"libraries": {"torch": "2.10.0"}}, "torch 2.10.0 then, "),
        ({}, {"usable_cores": 99}, "cores 99 then, "),
    ],
)
def test_a_run_of_another_fgbench_or_machine_is_not_resumed(tmp_path, changes, environment, line) -> None:
    from fgbench.cli.stored import begun, resumed
    from fgbench.errors import UsageError
    from fgbench.plan import make_plan
    from fgbench.running.start import new_run
    from tests.builders import config

    run, _ = new_run(make_plan(config()), tmp_path)
    resumed(*begun(run.path))
    facts = run.facts() | changes
    facts["environment"] |= environment
    if environment:
        facts["groups"][0]["contract"] = "what it was there"
    run._write(facts)
    with pytest.raises(UsageError, match=re.escape(line)) as refused:
        resumed(*begun(run.path))
    assert "\n" not in str(refused.value)


def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path: Path) -> None:
    done = fgbench_says("run", "--depth", "1", "--depth", "2", "--dry-run", "--out", str(tmp_path / "no"))
    assert "2 groups" in done.stdout
    assert re.search(r"about \d+ (s|min)", done.stdout)
    assert not (tmp_path / "no").exists()


def test_shards_are_merged_and_a_run_is_repeated_like_another(tmp_path: Path) -> None:
    quick = [*GIVEN, "--depth", "2", "--time-only", "--max-measure-seconds", "0.5", "--processes", "1"]
    for index in (1, 2):
        done = fgbench_says("run", *quick, "--shard", f"{index}/2", "--out", str(tmp_path / f"m{index}"))
        assert done.returncode == 0, done.stderr
    merged = fgbench_says("merge", *(str(tmp_path / f"m{i}") for i in (1, 2)), "--out", str(tmp_path / "all"))
    assert merged.returncode == 0, merged.stderr
    (whole,) = find_runs(tmp_path / "all")
    assert {g["depth"] for g in whole.facts()["groups"]} == set(whole.read("jobs")["depth"]) == {1, 2}
    again = fgbench_says(
        "run", "--like", str(whole.path), "--depth", "1", "--batch", "32", "--out", str(tmp_path / "b")
    )
    assert again.returncode == 0, again.stderr
    assert "differs from what was measured" in again.stderr
    (run,) = find_runs(tmp_path / "b")
    stored, repeated = whole.facts()["config"], run.facts()["config"]
    assert {k for k in stored if stored[k] != repeated[k]} == {"depths", "batch"}
