"""What fgbench is for: the same truths on a GPU."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from statistics import median

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.measurement.clock import CudaClock, clock_for
from fgbench.measurement.gauge import Blind
from fgbench.measurement.interleave import Arm, repeat
from fgbench.measurement.load import under_load
from fgbench.measurement.memory import peak_of_step
from fgbench.measurement.rates import byte_rate, launch_seconds
from fgbench.measurement.slowed import slowed
from fgbench.methods import Conditions
from fgbench.methods.steps import oracle
from fgbench.methods.steps.activity import TOGETHER
from fgbench.methods.steps.cudagraph import Graph
from fgbench.running.matched import float32_precision
from fgbench.specs import registry
from fgbench.store.run_folder import find_runs
from tests.builders import built_model, cross_entropy, loss_for, suited_batch
from tests.conformance.test_methods import PARTICULAR, every_spec

# One GPU for all: beside each other they would not be right. Without one there is nothing to wait for.
pytestmark = pytest.mark.real_time if torch.cuda.is_available() else pytest.mark.skip("needs a GPU")
DEVICE = "cuda"
NAMES, ARCHS = registry.names("methods"), registry.names("architectures")
PRECISIONS = {
    "float64": (torch.float64, "ieee"),
    "float32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "bfloat16": (torch.bfloat16, "ieee"),
}
CAPTURED = [
    *("backprop", "backprop:update=in-backward", "forward", "forward:structure=rank-one"),
    *("forward:tangents=4", "forward:tangents=4,chunk=2", "forward:structure=sphere"),
    *("forward:structure=activity", "forward:tangents=4,structure=activity"),
    *("forward:tangents=3,structure=orthonormal", "forward:tangents=3,combine=projection"),
]
COMPILED = [
    "backprop",
    "forward",
    "forward:structure=rank-one",
    "forward:structure=sphere",
    "forward:tangents=4",
]


@pytest.fixture(autouse=True)
def gpu():
    float32_precision("ieee")
    yield
    float32_precision("ieee")


def model_of(arch: str, dtype: torch.dtype = torch.float32, width: int = 16) -> nn.Module:
    torch.manual_seed(1)
    return built_model(arch, None, width, (1, 8, 8), 4).to(DEVICE, dtype).train()


def batch_of(dtype: torch.dtype = torch.float32, arch: str = "cnn") -> methods.Batch:
    x, y = suited_batch(arch, 32, (1, 8, 8), 4, dtype)
    return x.to(DEVICE), y.to(DEVICE)


def check(
    spec: str, arch: str, dtype: torch.dtype = torch.float32, conditions: Conditions = methods.PLAIN
) -> None:
    """Against reverse mode; a particular method may refuse the model."""
    try:
        oracle.check_step(
            methods.find(spec), model_of(arch, dtype), loss_for(arch), batch_of(dtype, arch), 0, conditions
        )
    except UsageError as error:
        if spec.startswith(PARTICULAR):
            pytest.skip(str(error))
        raise


def every_step() -> list[tuple[str, str, str]]:
    """Every spec on every architecture in float32; every method on each in the other precisions.

    But not spsa in bfloat16, where the difference of two losses is little but rounding.
    """
    exact = [(spec, arch, "float32") for spec in every_spec() for arch in ARCHS]
    rounded = [(n, p) for p in PRECISIONS if p != "float32" for n in NAMES if (n, p) != ("spsa", "bfloat16")]
    return exact + [(n, a, p) for n, p in rounded for a in ARCHS]


@pytest.mark.parametrize(("spec", "arch", "precision"), every_step(), ids=str)
def test_every_methods_step_is_what_reverse_mode_says(spec, arch, precision):
    dtype, products = PRECISIONS[precision]
    float32_precision(products)
    check(spec, arch, dtype)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("arch", ["mlp", "cnn", "resnet", "vit"])
@pytest.mark.parametrize("spec", CAPTURED)
def test_a_captured_step_is_what_reverse_mode_says_and_draws_fresh_tangents(spec, arch, optimizer):
    """The oracle compares two replays too: their tangents have to differ."""
    if "in-backward" in spec and optimizer != "sgd":
        pytest.skip("updates by plain SGD")
    check(spec, arch, conditions=Conditions("cudagraph", optimizer))


@pytest.mark.parametrize("arch", ["mlp", "cnn", "resnet", "vit"])
@pytest.mark.parametrize("spec", COMPILED)
def test_a_compiled_step_is_what_reverse_mode_says(spec, arch):
    check(spec, arch, conditions=Conditions("compile"))


@pytest.mark.parametrize("execution", ["eager", "compile"])
@pytest.mark.parametrize("spec", ["backprop", "forward", "forward:structure=rank-one"])
def test_a_step_under_adam_is_what_reverse_mode_says(spec, execution):
    check(spec, "mlp", conditions=Conditions(execution, "adam"))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
def test_a_captured_step_trains_as_an_eager_one(optimizer):
    batch, one = batch_of(), model_of("mlp", width=64)
    other = copy.deepcopy(one)
    eager, graph = (
        methods.prepare(methods.find("backprop"), own, cross_entropy, 0, Conditions(execution, optimizer))
        for own, execution in ((one, "eager"), (other, "cudagraph"))
    )
    for _ in range(5):
        torch.testing.assert_close(graph(batch, 0.01), eager(batch, 0.01))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_replay_is_right_after_other_graphs_were_destroyed():
    """torch frees the workspace of a destroyed graph's stream; products with a long sum write to one."""
    left, right = (torch.randn(size, device=DEVICE) for size in ((64, 2**17), (2**17, 64)))

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(a, b.t(), b[0]) + a @ b

    kept = Graph(product, list)
    wanted = kept(left, right).clone()
    for _ in range(3):
        Graph(product, list)(left, right)  # and dropped
        torch.cuda.empty_cache()
        others = [torch.full((2**20,), 7.0, device=DEVICE) for _ in range(64)]
        assert torch.equal(kept(left, right), wanted)
        assert all(bool((other == 7.0).all()) for other in others), "a replay wrote where others are"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("arch", ["mlp", "cnn", "transformer"])
def test_samples_are_as_much_apart_as_on_a_cpu(arch, precision):
    """A kernel that adds up in another order at each call would seem to mix them."""
    dtype, products = PRECISIONS[precision]
    float32_precision(products)
    spec = methods.find("forward:structure=activity")
    step = methods.prepare(spec, model_of(arch, dtype), loss_for(arch), 0)
    step(batch_of(dtype, arch), 1e-6)
    assert TOGETHER not in step.notes()


@pytest.mark.parametrize("spec", ["backprop", "forward:structure=rank-one"])
def test_replays_are_queued_behind_a_sleep_as_steps_are(spec):
    """Otherwise whether they are launch-bound would stay unknown."""
    model, batch, device = model_of("mlp", width=512), batch_of(arch="mlp"), torch.device("cuda:0")
    step = methods.prepare(methods.find(spec), model, cross_entropy, 0, Conditions("cudagraph"))
    step(batch, 1e-6)
    load = under_load(Arm("step", lambda: step(batch, 1e-6), steps=100), CudaClock(device, Blind()), 0.5)
    assert load.busy_seconds is not None
    assert 0 < load.busy_seconds <= 1.05 * load.seconds, load


def test_a_short_kernel_has_its_own_rate_and_not_that_of_its_start():
    device = torch.device("cuda:0")
    clock = CudaClock(device, Blind())
    rate = byte_rate(3 * 2**20, device, clock)
    assert 3 * 2**20 / rate < launch_seconds(device, clock), "it is sooner done than the next one is started"


def test_peaks_do_not_depend_on_what_was_measured_before():
    """Neither cuBLAS's workspaces nor blocks that are larger than what was asked for are any method's."""
    problem, device = model_of("mlp", width=512), torch.device("cuda:0")
    batch = batch_of(arch="mlp")

    def prepared(spec: str) -> Callable[[], object]:
        step = methods.prepare(methods.find(spec), copy.deepcopy(problem), cross_entropy, 0)
        return lambda: step(batch, 1e-6)

    specs = ["backprop", "forward", "forward:structure=rank-one"]
    one, other = (
        {spec: peak_of_step(partial(prepared, spec), device) for spec in order}
        for order in (specs, specs[::-1])
    )
    for spec in specs:
        assert one[spec].allocated == other[spec].allocated, spec
        assert one[spec].kept is not None, "a history of allocations is kept"
        assert sum(vars(one[spec])[kind] for kind in ("kept", "made", "passing")) == one[spec].allocated


def test_a_runner_describes_a_gpu_without_a_context_on_it():
    """It would take memory, and the whole GPU where each is for a single process."""
    code = (
        "import torch; from fgbench.measurement import environment, lock;"
        "environment.describe_environment('cuda:0', 1); lock.lock_file('cuda:0');"
        "print(torch._C._cuda_hasPrimaryContext(0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("size", [16, 4096], ids=["launch-bound", "not"])
def test_a_slowed_step_takes_its_share_longer_whoever_waits_for_whom(size):
    device = torch.device("cuda:0")
    clock, x = clock_for(device), torch.randn(size, size, device=device)

    def step() -> torch.Tensor:
        for _ in range(50):
            x @ x
        return x

    slower = slowed(step, 0.5, clock, device)
    plain, slow = (
        median(clock.time(partial(repeat, run, 10)).seconds for _ in range(20)) for run in (step, slower)
    )
    assert 1.35 < slow / plain < 1.7


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
