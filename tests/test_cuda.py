"""What fgbench is for: the same truths on a GPU."""

from __future__ import annotations

import copy
import subprocess
import sys
from statistics import median

import pytest
import torch

from fgbench import methods, oracle
from fgbench.architectures import build
from fgbench.errors import UsageError
from fgbench.measurement.clock import clock_for
from fgbench.methods import Conditions
from fgbench.store.run_folder import find_runs
from fgbench.worker.matched import float32_precision
from fgbench.worker.slow import slowed
from tests.builders import cross_entropy
from tests.conformance.test_methods import PARTICULAR, every_spec

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.real_time,  # one GPU for all
]


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", every_spec())
def test_every_methods_step_is_what_reverse_mode_says(name, dtype, arch):
    float32_precision("ieee")
    model = build(arch, 2, 16, (1, 8, 8), 4).to("cuda", dtype)
    x = torch.randn(32, 1, 8, 8, dtype=dtype, device="cuda")
    y = torch.randint(4, (32,), device="cuda")
    try:
        oracle.check_step(methods.find(name), model, cross_entropy, (x, y), seed=0)
    except UsageError as error:
        if name.startswith(PARTICULAR):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("name", ["backprop", "forward", "forward:structure=rank-one", "forward:tangents=4"])
def test_a_captured_step_is_what_reverse_mode_says_and_draws_fresh_tangents(name):
    """The oracle compares two replays too: their tangents have to differ."""
    float32_precision("ieee")
    model = build("mlp", 2, 64, (1, 8, 8), 4).to("cuda")
    x, y = torch.randn(32, 1, 8, 8, device="cuda"), torch.randint(4, (32,), device="cuda")
    oracle.check_step(
        methods.find(name), model, cross_entropy, (x, y), seed=0, conditions=Conditions("cudagraph")
    )


def test_a_captured_step_trains_as_an_eager_one():
    x, y = torch.randn(32, 1, 8, 8, device="cuda"), torch.randint(4, (32,), device="cuda")
    one = build("mlp", 2, 64, (1, 8, 8), 4).to("cuda")
    other = copy.deepcopy(one)
    eager = methods.prepare(methods.find("backprop"), one, cross_entropy, 0)
    graph = methods.prepare(methods.find("backprop"), other, cross_entropy, 0, Conditions("cudagraph"))
    for _ in range(5):
        torch.testing.assert_close(graph((x, y), 0.1), eager((x, y), 0.1))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_slowed_step_waits_in_the_queue_for_its_share():
    """By more than half of it, and by less than twice: the sleep is calibrated, not exact."""
    device = torch.device("cuda")
    clock, x = clock_for(device), torch.randn(4096, 4096, device=device)
    run = slowed(lambda: x @ x, 0.5, clock, device)
    plain, slow = (median(clock.time(work).seconds for _ in range(20)) for work in (lambda: x @ x, run))
    assert 1.25 < slow / plain < 2.0


def test_energy_and_clocks_reach_the_samples_and_kinds_add_up_to_the_peak(tmp_path):
    tiny = [
        "--depth",
        "2",
        "--width",
        "512",
        "--processes",
        "2",
        "--max-measure-seconds",
        "6",
        "--exec",
        "best",
    ]
    command = [sys.executable, "-m", "fgbench", "run", *tiny, "--time-only", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (run,) = find_runs(tmp_path)
    assert set(run.read("modes")["execution"]) == {"eager", "compile", "cudagraph"}
    assert run.read("samples")["sm_clock_mhz"].notna().all()
    memory = run.read("memory").pivot_table(index="method", columns="kind", values="bytes")
    kinds = [k for k in memory if k.startswith("peak_") and k not in ("peak_allocated", "peak_reserved")]
    assert ((memory[kinds].sum(axis=1) / memory["peak_allocated"] - 1).abs() < 0.02).all()


def test_a_run_has_both_clocks_and_both_kinds_of_memory(tmp_path):
    tiny = ["--depth", "1", "--width", "32", "--processes", "2", "--max-measure-seconds", "4"]
    tiny += ["--seeds", "1", "--max-train-seconds", "0.5", "--lr", "0.01", "--device", "cuda"]
    command = [sys.executable, "-m", "fgbench", "run", *tiny, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (run,) = find_runs(tmp_path)
    samples = run.read("samples")
    assert (samples["device_seconds"] > 0).all()
    assert (samples["device_seconds"] <= 1.05 * samples["seconds"]).all()
    assert {"peak_allocated", "peak_reserved"} <= set(run.read("memory")["kind"])
    assert set(run.read("jobs")["status"]) <= {"ok", "diverged"}
