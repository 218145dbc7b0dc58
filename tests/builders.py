"""Small builders that tests share: scripted clocks, tiny problems, configs, groups and run folders."""

from __future__ import annotations

import atexit
import copy
import dataclasses
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fgbench import architectures
from fgbench.datasets import Dataset
from fgbench.errors import UsageError
from fgbench.measurement.clock import Reading
from fgbench.measurement.interleave import Arm
from fgbench.methods import Batch, Loss, Step
from fgbench.plan import Config, Group
from fgbench.running.matched import Matched, build_matched
from fgbench.store.run_folder import RunFolder
from fgbench.training.losses import over_tokens

cross_entropy = nn.functional.cross_entropy


def only_here(loss: Callable[..., Any] = cross_entropy) -> Callable[..., Any]:
    """The loss as one that cannot be pickled: `compare` measures in this process, and starts none."""
    lock = Lock()

    def locked(output: Any, target: Any) -> Any:
        with lock:
            return loss(output, target)

    return locked


TINY_DATA = "synthetic:shape=1x6x6,classes=4,samples=64"


# ---- time that a test writes


@dataclass
class FakeClock:
    """A clock whose time passes only where a scripted arm says so."""

    now: float = 0.0

    def time(self, block: Callable[[], object]) -> Reading:
        start = self.now
        block()
        return Reading(self.now - start)


@dataclass
class ScriptedArm:
    """An arm whose every step advances the clock by what `cost` gives; it counts its calls."""

    name: str
    clock: FakeClock
    cost: Callable[[FakeClock, int], float]
    calls: int = 0

    def step(self) -> None:
        self.clock.now += self.cost(self.clock, self.calls)
        self.calls += 1

    def arm(self, steps: int = 1) -> Arm:
        return Arm(self.name, self.step, steps)


def steady_arm(name: str, clock: FakeClock, seconds: float) -> ScriptedArm:
    return ScriptedArm(name, clock, lambda _clock, _call: seconds)


@dataclass
class TickingClock:
    """One second a step of training, whatever the machine does: `ticks` is how often it was read."""

    seconds_per_reading: float = 1.0
    readings: int = 0

    def time(self, block: Callable[[], object]) -> Reading:
        block()
        self.readings += 1
        return Reading(self.seconds_per_reading)


# ---- tiny problems


def tiny_group(**changes: Any) -> Group:
    group = Group("mlp", 1, 16, 8, TINY_DATA, 16, "float32", "cpu", 1)
    return dataclasses.replace(group, **changes)


def tiny_matched(seed: int = 0, **changes: Any) -> Matched:
    return build_matched(tiny_group(**changes), "nowhere", seed)


def tiny_data(samples: int = 40, held: int = 12, classes: int = 3, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples + held, 1, 4, 4, generator=generator)
    labels = torch.randint(classes, (samples + held,), generator=generator)
    images += labels.reshape(-1, 1, 1, 1) * torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)
    return Dataset(images[:samples], labels[:samples], images[samples:], labels[samples:], classes)


def tiny_mlp(seed: int = 0, dtype: torch.dtype = torch.float64, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, classes))
    return model.to(dtype).train()


def built_model(
    arch: str, depth: int | None, width: int, in_shape: tuple[int, ...], classes: int
) -> nn.Module:
    """A registered architecture at a depth, or at its least; a skip where its torchvision does not import."""
    depth = depth or min(architectures.find(arch).depths, default=2)
    try:
        return architectures.build(arch, depth, width, suited_shape(arch, in_shape), classes)
    except UsageError as error:
        if "needs torchvision" in str(error):
            pytest.skip(str(error))
        raise


CONTEXT = 6  # of a small text


def suited_shape(arch: str, images: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a sample that an architecture takes: of these images, or of a small text."""
    return (CONTEXT,) if architectures.find(arch).takes == architectures.TEXT else images


def suited_batch(arch: str, samples: int, images: tuple[int, ...], classes: int, dtype: torch.dtype) -> Batch:
    """A batch that an architecture takes, from a fixed seed."""
    generator = torch.Generator().manual_seed(2)
    shape = suited_shape(arch, images)
    if len(shape) == 1:
        x, y = torch.randint(classes, (2, samples, *shape), generator=generator)
        return x, y
    return torch.randn(samples, *images, generator=generator).to(dtype), torch.arange(samples) % classes


def loss_for(arch: str) -> Loss:
    """The loss of what an architecture takes."""
    return over_tokens if len(suited_shape(arch, (1, 1, 1))) == 1 else cross_entropy


def tiny_batch(dtype: torch.dtype = torch.float64, samples: int = 6) -> Batch:
    data = tiny_data()
    return data.train_x[:samples].to(dtype), data.train_y[:samples]


def reverse_gradient(model: nn.Module, batch: Batch) -> list[Tensor]:
    model = copy.deepcopy(model)
    value = cross_entropy(model(batch[0]), batch[1])
    return list(torch.autograd.grad(value, [p for p in model.parameters() if p.requires_grad]))


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().double().flatten() for t in tensors])


def updates(step: Step, batch: Batch, draws: int, learning_rate: float = 1.0) -> Iterator[Tensor]:
    """Estimates that successive steps use at the same weights, recovered from what they did to them."""
    before = [p.detach().clone() for p in step.parameters]
    for _ in range(draws):
        step(batch, learning_rate)
        yield (flat(before) - flat(list(step.parameters))) / learning_rate
        with torch.no_grad():
            for parameter, value in zip(step.parameters, before, strict=True):
                parameter.copy_(value)


# ---- plans and runs


def config(**changes: Any) -> Config:
    plain = Config(
        archs=("mlp",),
        depths=(1,),
        width=16,
        batch=8,
        dataset=TINY_DATA,
        validation_size=16,
        data_dir="nowhere",
        methods=("backprop", "forward"),
        seeds=2,
        target_loss="auto",
        learning_rate=0.01,
        max_train_seconds=0.2,
        precision=0.02,
        max_measure_seconds=0.4,
        processes=1,
        device="cpu",
        dtype="float32",
        threads=1,
        execution="eager",
    )
    return dataclasses.replace(plain, **changes)


def run_folder(root: Path, groups: Sequence[Group] = (), **changes: Any) -> RunFolder:
    facts = {
        "command": "fgbench run",
        "config": {"methods": ["backprop", "forward"]},
        "reference": "backprop",
        "groups": [{"name": g.name, **dataclasses.asdict(g)} for g in groups],
        "environment": {"device_name": "a processor", "libraries": {"torch": "2.0.0"}},
        **changes,
    }
    return RunFolder.create(root, "test", facts)


@dataclass
class Recorder:
    """A watcher that remembers."""

    phases: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def phase(self, group: Group, text: str, seconds: float) -> None:
        self.phases.append(text)

    def progress(self, share: float, text: str) -> None:
        self.shares.append(share)

    def note(self, text: str) -> None:
        self.notes.append(text)


# Variables of a process whose locale knows ASCII alone.
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, as on a full disk."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
        signal.signal(signal.SIGXFSZ, handler)


@cache
def data_folder() -> Path:
    """Where downloaded datasets may be: FGBENCH_DATA, or a copy of the `shared/data` beside the repository.

    A copy, because torchvision unpacks where it reads.
    """
    if given := os.environ.get("FGBENCH_DATA"):
        return Path(given).expanduser()
    beside = Path(__file__).parents[2] / "shared" / "data"
    own = Path(tempfile.mkdtemp(prefix="fgbench-data-"))
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    for packed in beside.glob("*/raw/*.gz"):
        target = own / packed.relative_to(beside)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(packed, target)
    return own
